"""``ifserver publish``: what it takes for a message, where it publishes, and what it prints."""

from __future__ import annotations

import io
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ifserver.cli import main
from ifserver.commands import one_shot
from ifserver.commands.one_shot import SCRIPTS
from ifserver.config import arguments
from ifserver.config.command_line import SHELLS
from ifserver.errors import ConfigurationError
from ifserver.observe.publication import Publication, parse
from tests.observe.viewer.test_client import Endpoint

ROOT = Path(__file__).parents[2]
TOKEN = {"IFSERVER_FRONT_ADMIN_TOKEN": "geheim"}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    endpoint.answer = 202, b'{"processes": 2}'
    yield endpoint
    endpoint.close()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One without a file of settings."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, environ: dict[str, str] | None = None) -> int:
    return one_shot.publish(arguments.parse(["publish", *words], TOKEN if environ is None else environ))


def sent(endpoint: Endpoint, *words: str) -> Publication:
    """What an endpoint has got."""
    assert run("news", "--admin", endpoint.url, *words) == 0
    [(token, body)] = endpoint.published
    assert token == "Bearer geheim"
    endpoint.published.clear()
    return parse("application/json", body)


class Input:
    """Standard input."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_messages(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert sent(endpoint, "häh") == Publication(text="häh")
    assert capsys.readouterr().out == "published to 2 processes\n"
    assert sent(endpoint, "") == Publication(text="")
    assert sent(endpoint, "--", "-x") == Publication(text="-x")
    assert sent(endpoint, "\udcff", "--bytes") == Publication(data=b"\xff")
    assert sent(endpoint, ' {"a": 1.10} ', "--json") == Publication(text='{"a":1.10}')
    assert sent(endpoint, "--close", "4001") == Publication(close=(4001, ""))
    assert sent(endpoint, "--close", "4001:bye: x") == Publication(close=(4001, "bye: x"))
    assert sent(endpoint, "x", "--exclude", "k3v9x2aq7m.1f") == Publication(text="x", exclude="k3v9x2aq7m.1f")
    for words in ((), ("-",)):
        monkeypatch.setattr(sys, "stdin", Input("häh\n".encode()))
        assert sent(endpoint, *words) == Publication(text="häh\n")
    monkeypatch.setattr(sys, "stdin", Input(b"\xff\n"))
    assert sent(endpoint, "--bytes") == Publication(data=b"\xff\n")
    monkeypatch.setattr(sys, "stdin", Input(b'{\n "a": [1, 2]\n}\n'))
    assert sent(endpoint, "--json", "-") == Publication(text='{"a":[1,2]}')


def test_nobody_is_there(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.answer = 202, b'{"processes": 0}'
    assert run("news", "x", "--admin", endpoint.url) == 0
    assert capsys.readouterr().out == "nobody is there\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a b", "x"), "publish: not a group name: 'a b'"),
        (("!x", "x"), "publish: not a group name: '!x'"),
        (("g", "\udcff"), "publish: TEXT is not UTF-8 at byte 0: give --bytes"),
        (("g", "--json", "{"), "publish: --json: TEXT: "),
        (("g", "--json", "[" * 10_000), "publish: --json: TEXT: "),
        (("g", "--close", "x"), "publish: --close: expected CODE or CODE:REASON, got 'x'"),
        (("g", "--close", "1005"), "publish: --close: code must be one of"),
        (("g", "--close", f"1000:{'x' * 124}"), "publish: --close: reason must have at most 123 bytes"),
        (("g", "--close", "1000", "x"), "publish: --close takes no TEXT"),
    ],
)
def test_what_cannot_be_published(words: tuple[str, ...], said: str, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError) as caught:
        run(*words, "--admin", endpoint.url)
    assert str(caught.value).startswith(said)
    assert endpoint.asked == []


@pytest.mark.parametrize("words", [("--json", "--bytes"), ("--json", "--close", "1000")])
def test_one_kind_at_a_time(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("g", *words)
    assert "not allowed with argument" in capsys.readouterr().err


def test_standard_input_has_a_limit(monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint) -> None:
    monkeypatch.setattr(one_shot, "_MAX_BYTES", 3)
    monkeypatch.setattr(sys, "stdin", Input(b"four"))
    with pytest.raises(ConfigurationError, match="longer than"):
        run("news", "--admin", endpoint.url)
    monkeypatch.setattr(sys, "stdin", Input("häh".encode()[:1] + b"\xc3"))
    with pytest.raises(ConfigurationError, match="standard input is not UTF-8 at byte 1"):
        run("news", "--admin", endpoint.url)


def test_the_settings_say_where(endpoint: Endpoint, folder: Path) -> None:
    address = endpoint.url.removeprefix("http://")
    assert run("news", "x", environ=TOKEN | {"IFSERVER_FRONT_ADMIN": address}) == 0
    (folder / "a.toml").write_text(f'[front]\nadmin = "{address}"\nadmin_token = "other"\n')
    assert run("news", "x", "--config", "a.toml", environ={}) == 0
    assert run("news", "x", "--admin", address, environ={"IFSERVER_WORKER_ADMIN_TOKEN": "third"}) == 0
    assert [token for token, _ in endpoint.published] == ["Bearer geheim", "Bearer other", "Bearer third"]


def test_clusters_go_before_an_endpoint_that_the_settings_name(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr("ifserver.commands.one_shot._run", lambda build: ran.append(build) or 0)
    environ = TOKEN | {"IFSERVER_FRONT_ADMIN": endpoint.url, "IFSERVER_LAYER_CLUSTERS": "a=redis://127.0.0.1:1"}
    assert run("news", "x", environ={**environ, "IFSERVER_FRONT_ADMIN": "127.0.0.1:1"}) == 0
    assert len(ran) == 1
    environ = {"IFSERVER_LAYER_CLUSTERS": "a=redis://127.0.0.1:1"} | TOKEN
    assert run("news", "x", "--admin", endpoint.url, environ=environ) == 0
    assert (len(ran), len(endpoint.published)) == (1, 1)


def test_nowhere_to_publish() -> None:
    with pytest.raises(ConfigurationError, match="publish: there is nowhere to publish: give --cluster NAME=URL, or"):
        run("news", "x", environ={})
    with pytest.raises(ConfigurationError, match=r"set IFSERVER_FRONT_ADMIN_TOKEN, or front\.admin_token"):
        run("news", "x", "--admin", "127.0.0.1:1", environ={})


def test_what_an_endpoint_refuses(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint.answer = 401, b"the token is missing or wrong\n"
    with pytest.raises(ConfigurationError) as caught:
        run("news", "x", "--admin", endpoint.url)
    assert str(caught.value) == f"publish: {endpoint.url}: 401: the token is missing or wrong"
    endpoint.answer = 503, b"not published: node east: there is no connection\n"
    assert run("news", "x", "--admin", endpoint.url) == 1
    said = "503: not published: node east: there is no connection\n"
    assert capsys.readouterr().err == f"ifserver: error: {endpoint.url}: {said}"
    endpoint.answer = 202, b"<html>"
    assert run("news", "x", "--admin", endpoint.url) == 1
    assert capsys.readouterr().err.startswith(f"ifserver: error: {endpoint.url}: ")


def test_no_endpoint_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("news", "x", "--admin", "127.0.0.1:1") == 1
    error = capsys.readouterr().err
    assert error.startswith("ifserver: error: http://127.0.0.1:1: ")
    assert error.count("\n") == 1


def test_over_http_it_imports_neither_a_reactor_nor_what_workers_need() -> None:
    code = (
        "import sys; from ifserver.commands import one_shot; from ifserver.config import arguments;"
        "given = arguments.parse(['publish', 'g', 'x', '--admin', '127.0.0.1:1'], {'IFSERVER_FRONT_ADMIN_TOKEN': 't'});"
        "one_shot.publish(given);"
        "print(*sorted(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    modules = set(done.stdout.split())
    assert "ifserver.observe.viewer.client" in modules
    unwanted = (
        "ifserver.worker.",
        "ifserver.front",
        "ifserver.layers",
        "uvloop",
        "txredisapi",
        "twisted.internet.asyncio",
    )
    assert {name for name in modules if name.startswith(unwanted)} == set()


# ``ifserver completion``.


ROOT = Path(__file__).parents[2]
#: What stands on the command line -> some of what is offered then, and the most that may be.
OFFERED = {
    ("ser",): ({"serve"}, 1),
    ("run", "--por"): ({"--port"}, 1),
    ("run", "hello:app", "--log-format", ""): ({"human", "json", "short"}, 3),
    ("completion", ""): ({"bash", "zsh", "fish"}, 3),
    ("pause", "--"): ({"--admin", "--for", "--help"}, 10),
    ("worker", "--clu"): ({"--cluster", "--clusters"}, 2),
    ("serve", "--certfile", "setup.c"): ({"setup.cfg"}, 1),
}
#: Types the line $3 in a zsh that has the scripts in $1, and presses Tab. What is offered is not inserted, but written
#: into a file in $2.
ZSH = r"""
zmodload zsh/zpty
zpty shell zsh -f -i
tell() { zpty -w shell "$1" }
tell 'PS1=; unsetopt beep; fpath=('${(q)1}' $fpath); autoload -U compinit; compinit -u -D'
tell 'compadd() {
  [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]] && { builtin compadd "$@"; return }
  local -a found; builtin compadd -A found "$@"; print -rl -- $found >> '${(q)2}'/offered
}'
tell 'tab() { zle complete-word; : > '${(q)2}'/done }; zle -N tab; bindkey "^I" tab'
zpty -w -n shell "$3"$'\t'
while [[ ! -e $2/done ]]; do zpty -rt shell ignored || sleep 0.05; done
cat $2/offered
"""


def shown(command: list[str]) -> set[str]:
    # In the project's folder, which has the files that are offered.
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return set(done.stdout.split("\n")) - {""}


@pytest.mark.parametrize("shell", SHELLS)
def test_it_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == SCRIPTS[shell].read_text("utf-8")


@pytest.mark.parametrize("words", [[], ["tcsh"], ["bash", "zsh"]])
def test_what_is_wrong_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["completion", *words])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("words", OFFERED, ids=" ".join)
def test_bash(words: tuple[str, ...]) -> None:
    line = ["ifserver", *words]
    script = f"""
        source {shlex.quote(str(SCRIPTS["bash"]))}
        COMP_WORDS=({shlex.join(line)}) COMP_CWORD={len(line) - 1}
        _shtab_ifserver 2> /dev/null  # it is called by the shell alone, and complains
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    expected, most = OFFERED[words]
    found = shown(["bash", "--norc", "-c", script])
    assert expected <= found
    assert len(found) <= most


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not here")
@pytest.mark.parametrize("words", OFFERED, ids=" ".join)
def test_fish(words: tuple[str, ...]) -> None:
    line = " ".join(("ifserver", *words))
    script = f"source {shlex.quote(str(SCRIPTS['fish']))}; complete --do-complete {shlex.quote(line)}"
    expected, most = OFFERED[words]
    found = {each.partition("\t")[0] for each in shown(["fish", "--no-config", "-c", script])}
    assert expected <= found
    assert len(found) <= most


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not here")
@pytest.mark.parametrize("words", OFFERED, ids=" ".join)
def test_zsh(words: tuple[str, ...], tmp_path: Path) -> None:
    line = " ".join(("ifserver", *words))
    expected, most = OFFERED[words]
    found = shown(["zsh", "-f", "-c", ZSH, "zsh", str(SCRIPTS["zsh"].parent), str(tmp_path), line])
    assert expected <= found
    assert len(found) <= most
