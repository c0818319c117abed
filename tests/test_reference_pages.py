"""Pages of docs/reference, the manual page and scripts for shells are those that the code makes now."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ifserver.config import command_line
from ifserver.config.settings import all_settings

DOCS = Path(__file__).parent.parent / "docs"


def test_they_are_made_anew() -> None:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert len(generate.PAGES) == 7
    for path, make in generate.PAGES.items():
        assert path.read_text("utf-8") == make(), "python docs/generate.py"


def test_the_page_of_settings_names_every_setting_variable_and_flag() -> None:
    text = (DOCS / "reference/settings.rst").read_text("utf-8")
    for setting in all_settings().values():
        assert f"``{setting.variable}``" in text
        for name in setting.flags:
            assert f"``{name}``" in text or f"``{command_line.switched_off(name)}``" in text
