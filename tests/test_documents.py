"""The pages of ``docs`` lead to each other: each is in the index, and every page that is named exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.rst"))


def pages_named(path: Path) -> set[Path]:
    """The pages that a document names in literals: ``settings.rst`` beside it, or ``docs/settings.rst``."""
    names = re.findall(r"``([\w./]+\.rst)``", path.read_text("utf-8"))
    return {(ROOT if name.startswith("docs/") else path.parent) / name for name in names}


def test_the_index_names_every_page() -> None:
    named = {str(path.relative_to(DOCS)) for path in pages_named(DOCS / "index.rst")}
    assert sorted(named) == [page for page in PAGES if page != "index.rst"]


@pytest.mark.parametrize("path", [ROOT / "README.rst", *(DOCS / page for page in PAGES)], ids=lambda path: path.name)
def test_every_page_that_is_named_exists(path: Path) -> None:
    assert [str(page) for page in pages_named(path) if not page.is_file()] == []


def test_pages_are_found() -> None:
    assert len(pages_named(ROOT / "README.rst")) > 5
