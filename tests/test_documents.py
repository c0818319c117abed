"""The documents lead to each other and to the code: each page is in the index, and every page, module, message and
section that is named exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ifserver import messages

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ifserver"
DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.rst"))
#: Those that are not in ``docs``.
AT_THE_ROOT = sorted(ROOT.glob("*.rst"))
ARCHITECTURE = DOCS / "explanation/architecture.rst"
#: Those that name modules.
ABOUT_THE_CODE = [*AT_THE_ROOT, ARCHITECTURE, *sorted((DOCS / "explanation/decisions").glob("*.rst"))]
#: What a comment or a document cites of the architecture.
_CITED = re.compile(r"docs/explanation/architecture\.rst, ([A-Z][\w ]*\w)")


def pages_named(path: Path) -> set[Path]:
    """The pages that a document names: the site's with ``:doc:``, others in literals from the root."""
    text = path.read_text("utf-8")
    return {DOCS / f"{name}.rst" for name in re.findall(r":doc:`(?:[^`<]*<)?/([\w/]+)>?`", text)} | {
        ROOT / name for name in re.findall(r"``([\w./]+\.rst)``", text)
    }


def test_the_index_names_every_page() -> None:
    """In what one reads and in the menu."""
    index = DOCS / "index.rst"
    pages = {DOCS / page for page in PAGES if page != "index.rst"}
    assert pages_named(index) == pages
    entries = re.findall(r"^   ([a-z][\w/*]+)$", index.read_text("utf-8"), re.MULTILINE)
    assert {path for entry in entries for path in DOCS.glob(f"{entry}.rst")} == pages


def test_the_project_pages_show_what_is_at_the_root() -> None:
    shown = {
        path
        for page in PAGES
        for path in re.findall(r"^\.\. include:: \.\./(\w+\.rst)$", (DOCS / page).read_text(), re.M)
    }
    assert shown == {path.name for path in AT_THE_ROOT if path.name != "README.rst"}


@pytest.mark.parametrize("path", [*AT_THE_ROOT, *(DOCS / page for page in PAGES)], ids=lambda path: path.name)
def test_every_page_that_is_named_exists(path: Path) -> None:
    assert [str(page) for page in pages_named(path) if not page.is_file()] == []


def test_pages_are_found() -> None:
    assert len(pages_named(ROOT / "README.rst")) > 5


def modules_named(path: Path) -> set[str]:
    """The modules that a document names in literals, from the folder ``ifserver`` on or from the root."""
    return set(re.findall(r"``([\w/]+\.py)``", path.read_text("utf-8")))


def titles(path: Path) -> set[str]:
    """The titles of the sections of a document."""
    return set(re.findall(r"^(\S.*)\n[=~-]{4,}$", path.read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("path", ABOUT_THE_CODE, ids=lambda path: path.name)
def test_every_module_that_is_named_exists(path: Path) -> None:
    exists = {name: any((folder / name).is_file() for folder in (PACKAGE, ROOT)) for name in modules_named(path)}
    assert [name for name, there in exists.items() if not there] == []


def test_modules_are_found() -> None:
    assert len(modules_named(ARCHITECTURE)) > 30


def test_the_architecture_names_every_message() -> None:
    kinds = {kind for kind in vars(messages).values() if isinstance(kind, type) and issubclass(kind, messages.Message)}
    text = ARCHITECTURE.read_text("utf-8")
    assert [kind.__name__ for kind in kinds - {messages.Message} if f"``{kind.__name__}``" not in text] == []


def test_the_architecture_names_every_folder_of_the_package() -> None:
    layout = ARCHITECTURE.read_text("utf-8").partition("\nWhere the code is\n")[2]
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(re.findall(r"^ {6}(\w+)/ ", layout, re.MULTILINE))


def test_every_section_that_code_cites_exists() -> None:
    cited: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        # A comment may go on in its next line.
        text = re.sub(r"\n\s*(#:? )?", " ", path.read_text("utf-8"))
        assert "(design" not in text, path
        cited |= dict.fromkeys(_CITED.findall(text), path.name)
    assert len(cited) > 5
    assert {section: where for section, where in cited.items() if section not in titles(ARCHITECTURE)} == {}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.rst").read_bytes()) <= 6 * 1024


def test_the_figures_in_the_readme_are_those_that_were_measured() -> None:
    """Loads and servers are named alike on both pages. Put the new figures in after ``make bench``."""
    readme, page = (ROOT / "README.rst").read_text("utf-8"), (DOCS / "explanation/performance.rst").read_text("utf-8")
    measured = {}
    for title, table in re.findall(r"^\*(.+)\*\n\n((?:.+\n)+)", page, re.MULTILINE):
        for line in table.splitlines():
            if found := re.match(r"(\S.*?)  +[\d.]+  +[\d.-]+  +[\d.-]+  +([\d.]+)  +.*  ([\d.]+)$", line):
                measured[title, found[1]] = found[2], found[3]
    for load in ("GET, 13 bytes, 64 connections", "WebSocket echo, 64 bytes, 100 connections"):
        [shown] = re.findall(rf"^{load} +([\d.]+) +([\d.]+) +([\d.]+)$", readme, re.MULTILINE)
        assert list(shown) == [measured[load, name][0] for name in ("ifserver (embedded)", "uvicorn", "daphne")]
    slow = "GET beside 1 % of 200 ms of CPU, 4 workers, 500 a second"
    for name in ("ifserver (embedded, 4 workers)", "uvicorn (4, HAProxy)"):
        assert f" {float(measured[slow, name][1]):.0f} ms" in " ".join(readme.split())
    [commit] = re.findall(r"commit (\w+)\)", page)[:1]
    assert f"commit\n{commit}" in readme or f"commit {commit}" in readme
