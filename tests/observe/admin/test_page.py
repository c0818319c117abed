"""The live view as it is sent; `tests.e2e.test_live_view` has a browser show it."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from pathlib import Path

import pytest

from ifserver.observe.admin import page
from ifserver.observe.admin.endpoint import CLOSE_HEADER
from tests.observe.admin.stage import Stage

FOLDER = Path(page.__file__).with_name("view")
FILES = sorted(FOLDER.iterdir())
#: Elements of SVG cannot be made without it. Nobody asks for it.
NAMESPACE = "http://www.w3.org/2000/svg"


def test_the_page_may_do_no_more_than_it_does() -> None:
    answer = Stage().ask("/")
    policy = answer.headers[b"content-security-policy"].decode()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    text = answer.body.decode()
    for tag in ("script", "style"):
        parts = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.S)
        assert len(parts) == sum(file.suffix == {"script": ".js", "style": ".css"}[tag] for file in FILES)
        digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in parts]
        hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
        assert f"{tag}-src {hashes};" in policy


def test_the_page_is_one_file_that_asks_for_nothing_else() -> None:
    body, content_type, _, _ = page.answer()
    text = body.decode()
    assert content_type.startswith("text/html")
    assert re.findall(r"https?://|\bimport\b|@import|url\(", text.replace(NAMESPACE, "")) == []
    assert set(re.findall(r'(?:src|href)="([^"]*)"', text)) == {"data:,", "#main"}
    # What clients send never becomes HTML, and style and script are where the policy allows them.
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|\son\w+=|\sstyle=", text) == []
    assert CLOSE_HEADER in text


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_its_files_are_read_as_easily_as_the_others(file: Path) -> None:
    text = file.read_text("utf-8")
    assert len(text.splitlines()) <= 450
    assert max(map(len, text.splitlines())) <= 120
    # A file that closes its own element would end it in the page.
    assert "</script>" not in text or file.suffix == ".html"
    if file.suffix == ".js":
        assert text.startswith('"use strict";\n// ')
    if file.suffix == ".css":
        assert text.startswith("/* ")
    assert file.suffix in {".js", ".css", ".html"}


def test_every_file_is_part_of_it() -> None:
    text = FOLDER.joinpath("page.html").read_text("utf-8")
    named = re.findall(r'(?:src|href)="([a-z_]+\.(?:js|css))"', text)
    assert sorted(named) == [file.name for file in FILES if file.name != "page.html"]
    assert resources.files("ifserver.observe.admin").joinpath("view", "main.js").is_file()
