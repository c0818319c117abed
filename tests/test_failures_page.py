"""``docs/failures.rst`` names the tests that show what it says: they exist, and nothing there is without one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs/failures.rst"
#: What happens, with all that is said of it.
ENTRIES = re.findall(r"^(\S[^\n]*)\n(?= {4})((?:(?: {4}[^\n]*)?\n)+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def named(text: str) -> list[tuple[str, str]]:
    """The tests that an entry names, each with its file."""
    found = []
    file = ""
    for name in re.findall(r"``([\w/.]+)``", text):
        if name.endswith(".py"):
            file = name
        elif name.startswith("test_"):
            found.append((file, name))
    return found


def test_there_are_entries() -> None:
    assert len(ENTRIES) >= 20


@pytest.mark.parametrize(("what", "text"), ENTRIES, ids=[what for what, _ in ENTRIES])
def test_the_tests_of_an_entry_exist(what: str, text: str) -> None:
    tests = named(text)
    assert tests
    for file, name in tests:
        assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE), name
