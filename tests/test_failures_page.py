"""``docs/explanation/failures.rst`` names at its end the modules that decide each of its entries, and its tests: all of
them exist, and no entry is without them.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "ifserver"
PAGE = TESTS.parent / "docs/explanation/failures.rst"
_ENTRY = re.compile(r"^(\S[^\n]*)\n((?:(?: {4}[^\n]*)?\n)*? {4}[^\n]*\n(?:(?: {4}[^\n]*)?\n)*)", re.MULTILINE)
BEFORE, HEADING, BEHIND = PAGE.read_text(encoding="utf-8").partition("\nModules and tests\n-----------------\n")
#: What happens, with what is said of it.
ENTRIES = dict(_ENTRY.findall(BEFORE))
#: What happens, with the modules that decide it, and its tests.
PROOFS = dict(_ENTRY.findall(BEHIND))


def deciding(text: str) -> list[str]:
    """The modules that `text` says to decide."""
    match = re.match(r" +Decided in ([^:]*)\.\n\n", text)
    return re.findall(r"``([\w/.]+)``", match[1]) if match else []


def named(text: str) -> list[tuple[str, str]]:
    """The tests that `text` names, each with its file."""
    found = []
    file = ""
    for name in re.findall(r"``([\w/.]+)``", text):
        if name.endswith(".py"):
            file = name
        elif name.startswith("test_"):
            found.append((file, name))
    return found


def test_there_are_entries() -> None:
    assert HEADING
    assert len(ENTRIES) >= 20


def test_each_entry_has_its_tests_and_no_test_is_without_an_entry() -> None:
    assert list(PROOFS) == list(ENTRIES)


def test_entries_are_not_interrupted_by_tests() -> None:
    assert named(BEFORE) == []


@pytest.mark.parametrize(("what", "text"), PROOFS.items(), ids=list(PROOFS))
def test_the_tests_of_an_entry_exist(what: str, text: str) -> None:
    tests = named(text)
    assert tests
    for file, name in tests:
        assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE), name


@pytest.mark.parametrize(("what", "text"), PROOFS.items(), ids=list(PROOFS))
def test_the_modules_that_decide_an_entry_exist(what: str, text: str) -> None:
    modules = deciding(text)
    assert modules
    assert [module for module in modules if not (PACKAGE / module).is_file()] == []
