# `make help` lists what there is. Everything is installed into .venv; nothing outside this folder changes, but for the
# system packages that `make test` needs (tools/install-system-packages).

# Set on make's command line. Not taken from the environment, where HOST may mean something else (conda's, csh's).
HOST := 127.0.0.1
PORT := 8000
# The live view of `make run`.
ADMIN := 127.0.0.1:9100
SECONDS := 600
# .venv is made with the first of these that is new enough.
PYTHON := python3.13 python3.12 python3.11 python3

VENV := .venv
# Of `make foreign-sites`: what their packages need is no affair of the other one.
FOREIGN := .venv-foreign
# Which of them; empty: all.
SITES :=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run docs test pythons lowest autobahn foreign-sites fuzz chaos bench placement pictures \
    lint types format dist clean
.PHONY: system-packages

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

run: $(VENV)/.for-examples  ## start the Django example; HOST= and PORT= say where, ADMIN= where its live view is
	@echo "Starting the Django example on http://$(HOST):$(PORT)/ (Ctrl-C stops it)"
	@admin=$$($(BIN)/python tools/free-address $(ADMIN)) && \
	echo "Its live view, for operators, is on http://$$admin/" && \
	exec $(BIN)/ifserver run demo.asgi:application --app-dir examples/django_site -b $(HOST) -p $(PORT) --admin $$admin \
	    --resumable '/chat/*'

docs: $(VENV)/.for-docs  ## build the documentation; it is in build/docs/index.html then
	@# Anew each time: what is kept of the last time has no warnings any more.
	$(BIN)/python -m sphinx -q -E -W --keep-going -d build/doctrees docs build/docs

test: lint types system-packages $(VENV)/.for-tests  ## check style and types, then run all tests
	@# Else each of the hundreds of processes would compile it anew where PYTHONDONTWRITEBYTECODE is set.
	@$(BIN)/python -m compileall -q ifserver tests examples
	@# pytest compiles the tests in its own way, for twelve seconds. Where it has not yet, once is better than six times.
	@ls tests/__pycache__/test_*-pytest-*.pyc > /dev/null 2>&1 || $(PYTEST) --collect-only -qq > /dev/null
	@# More processes than CPUs: most tests wait for others.
	$(PYTEST) -n 6 --dist loadfile --no-loadscope-reorder

pythons: system-packages $(VENV)/.for-pythons  ## run the core of the tests on each Python from 3.11 to 3.14 that is here
	$(BIN)/python -m nox --session core

lowest: system-packages $(VENV)/.for-pythons  ## run it with the oldest dependencies that setup.cfg allows
	$(BIN)/python -m nox --session lowest

autobahn: system-packages $(VENV)/.for-tests  ## run the Autobahn test suite of WebSockets, for a quarter of an hour
	$(BIN)/python -m tests.autobahn.run

foreign-sites: system-packages $(VENV)/.made  ## serve sites that nobody here wrote, for an hour; SITES= says which
	@test -d $(FOREIGN) || $(BIN)/python -m venv $(FOREIGN)
	@echo "Installing ifserver and the sites into $(FOREIGN)"
	@$(FOREIGN)/bin/python -m pip --disable-pip-version-check --quiet install --upgrade -r tests/foreign/requirements.txt .
	$(FOREIGN)/bin/python -m tests.foreign $(SITES)

fuzz: $(VENV)/.for-tests  ## send what reads bytes from outside anything for SECONDS= (ten minutes); it names its seed
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS)

chaos: system-packages $(VENV)/.for-tests  ## kill and freeze processes and nodes for SECONDS= (ten minutes); it names its seed
	$(BIN)/python -m tests.chaos --seconds $(SECONDS)

bench: $(VENV)/.for-tests  ## measure ifserver, beside its peers and as it grows, for an hour; writes the page of it
	@tools/install-system-packages wrk
	@# A peer that not every system has; without it the others are measured.
	-@tools/install-system-packages pushpin
	$(BIN)/python -m benchmarks.bench --write
	$(BIN)/python -m benchmarks.growth --write
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.django_servers --write
	$(BIN)/python -m benchmarks.performance_page

pictures: system-packages $(VENV)/.for-tests  ## take the pictures of the documentation anew, of the running thing
	$(BIN)/python -m tools.pictures

placement: $(VENV)/.for-tests  ## simulate how requests are placed, and write the page of it
	$(BIN)/python -m benchmarks.placement

lint: $(VENV)/.for-tests  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.for-tests  ## check types
	$(BIN)/mypy

format: $(VENV)/.for-tests  ## put right what can be put right by machine
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

dist: $(VENV)/.for-tests  ## build the source distribution and the wheel of the last commit, in dist
	$(BIN)/python tools/make-dist

clean:  ## remove .venv, caches and builds
	rm -rf $(VENV) .venv-autobahn $(FOREIGN) .nox build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis test-artefacts
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

system-packages:
	@tools/install-system-packages

# The stamps are older than setup.cfg once a dependency has changed.
$(VENV)/.for-examples: setup.cfg pyproject.toml $(VENV)/.made
	@echo "Installing ifserver and what its examples need into $(VENV) (a minute or so, the first time)"
	@$(PIP) install --editable '.[examples]'
	@touch $@

$(VENV)/.for-tests: setup.cfg pyproject.toml $(VENV)/.made
	@echo "Installing ifserver and what its tests need into $(VENV) (a minute or so, the first time)"
	@$(PIP) install --editable '.[test,examples,bench,docs]'
	@touch $(VENV)/.for-examples $(VENV)/.for-docs $@

$(VENV)/.for-docs: setup.cfg pyproject.toml $(VENV)/.made
	@echo "Installing ifserver and what its documentation needs into $(VENV) (a minute or so, the first time)"
	@$(PIP) install --editable '.[docs]'
	@touch $@

$(VENV)/.for-pythons: setup.cfg pyproject.toml $(VENV)/.made
	@$(PIP) install --editable '.[pythons]'
	@touch $@

$(VENV)/.made:
	@for python in $(PYTHON); do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then without="$$without $$version"; continue; fi; \
	    echo "Making $(VENV) with Python $$version"; \
	    "$$python" -m venv --clear $(VENV) && touch $@; exit; \
	done; \
	for version in $$without; do \
	    echo "Python $$version is here, but without its venv module. On Debian and Ubuntu, install that with" >&2; \
	    echo "  sudo apt-get install python$$version-venv" >&2; exit 1; \
	done; \
	echo "ifserver needs Python 3.11 or newer, and none of these is: $(PYTHON)" >&2; \
	echo "Install one, or name one that you have: make PYTHON=/path/to/python3 ..." >&2; exit 1
