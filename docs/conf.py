"""The site: ``make docs`` builds it into ``build/docs``. Warnings and links that lead nowhere are errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.transforms import SphinxTransform

project = "ifserver"
author = "ifserver contributors"
copyright = "ifserver contributors"
_package = (Path(__file__).parents[1] / "ifserver/__init__.py").read_text("utf-8")
version = release = _package.split('__version__ = "')[1].split('"')[0]

nitpicky = True
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pictures.css"]
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


class _Pictures(SphinxTransform):
    """A page names the light picture alone, ``NAME-light.*``.

    Here it gets the dark one too, and of a recording the last frames, ``NAME-still-*``, for those who have asked for
    less motion. What is not shown is not loaded.
    """

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        for image in list(self.document.findall(nodes.image)):
            uri = image["uri"]
            if "-light." not in uri:
                continue
            still = uri.replace("-light.", "-still-light.")
            moves = Path(self.env.relfn2path(still, self.env.docname)[1]).is_file()
            found: list[nodes.Node] = []
            for scheme in ("light", "dark"):
                shown = uri.replace("-light.", f"-{scheme}.")
                found.append(_picture(image, shown, f"only-{scheme}", *(["moving"] if moves else [])))
                if moves:
                    picture = _picture(image, still.replace("-light.", f"-{scheme}."), f"only-{scheme}", "still")
                    # Where Sphinx puts all pictures.
                    there = f"{'../' * self.env.docname.count('/')}_images/{Path(shown).name}"
                    found.append(nodes.reference("", "", picture, refuri=there, internal=True))
            image.parent.replace(image, found)


def _picture(like: nodes.image, uri: str, *classes: str) -> nodes.image:
    picture: nodes.image = like.deepcopy()
    picture["uri"] = uri
    picture["classes"] += classes
    picture["loading"] = "lazy"
    return picture


def setup(app: Any) -> None:
    app.add_transform(_Pictures)
    app.connect("doctree-read", _choose_languages)
