"""The site: ``make docs`` builds it into ``build/docs``. Warnings and links that lead nowhere are errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes

project = "ifserver"
author = "ifserver contributors"
copyright = "ifserver contributors"
_package = (Path(__file__).parents[1] / "ifserver/__init__.py").read_text("utf-8")
version = release = _package.split('__version__ = "')[1].split('"')[0]

nitpicky = True
html_theme = "furo"
html_title = f"ifserver {release}"
# The pages are plain text that anybody can read in the repository.
html_show_sourcelink = False
html_copy_source = False
smartquotes = False

#: The language of a literal block, by how one of its lines begins.
_LANGUAGES = (
    ("python", r"(from \S+ import |import |def |async def |class |@\w|[\w.]+ = [\[{(\"']?[\w\"'])"),
    ("ini", r"\[(Unit|Service|Socket|Install)\]$"),
    ("toml", r"\[[\w.]+\]$"),
    ("nginx", r"(location|upstream|server|map) .*\{"),
    ("yaml", r"(- )?\w+:( |$)"),
    ("console", r"(\$ |ifserver |python |pip |make |redis|kill |systemctl |curl |docker |kubectl )"),
)


def _choose_languages(app: Any, document: nodes.document) -> None:
    for block in document.findall(nodes.literal_block):
        if "language" not in block:
            block["language"] = _language(block.astext())


def _language(text: str) -> str:
    found = (name for name, start in _LANGUAGES if re.search(f"^{start}", text, re.MULTILINE))
    name = next(found, "text")
    return "bash" if name == "console" and not re.search(r"^\$ ", text, re.MULTILINE) else name


def setup(app: Any) -> None:
    app.connect("doctree-read", _choose_languages)
