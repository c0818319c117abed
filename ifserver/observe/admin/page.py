"""The live view: files of ``view/``, put together into one page when the process starts.

The page is whole with one answer, so that it can still show what it knows when its process is gone. Its policy (Content
Security Policy, level 3) names each script and style sheet by its hash: nothing else runs, whatever comes to stand in
the page. For the same reason nothing in it may be made from text as HTML (Trusted Types).
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import Final

__all__ = ["answer"]

_FOLDER: Final = "view"
#: What ``page.html`` says in place of what is in its files.
_STYLE: Final = re.compile(r'<link rel="stylesheet" href="([a-z_]+\.css)">')
_SCRIPT: Final = re.compile(r'<script src="([a-z_]+\.js)"></script>')


def answer() -> tuple[bytes, str, dict[str, str], str]:
    """The page, its type, its headers beside those that all answers have, and its policy."""
    sources: dict[str, list[str]] = {"script": [], "style": []}

    def inline(tag: str, found: re.Match[str]) -> str:
        text = _text(found[1])
        sources[tag].append(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
        return f"<{tag}>{text}</{tag}>"

    text = _STYLE.sub(lambda found: inline("style", found), _text("page.html"))
    text = _SCRIPT.sub(lambda found: inline("script", found), text)
    policy = (
        f"default-src 'none'; script-src {' '.join(sources['script'])}; style-src {' '.join(sources['style'])}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return text.encode(), "text/html; charset=utf-8", {}, policy


def _text(name: str) -> str:
    return resources.files("ifserver.observe.admin").joinpath(_FOLDER, name).read_text("utf-8")
