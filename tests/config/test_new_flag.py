"""A new flag is one field: its variable, its key, its help and its documentation follow, in no other file."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest

from ifserver.config import arguments, manual
from ifserver.config.checks import problem_of_path
from ifserver.config.command_line import make_parser
from ifserver.config.configuration import Configuration, live_paths
from ifserver.config.schema import LIVE, check, flag
from ifserver.config.settings import SECTIONS, LogSettings, all_settings
from ifserver.config.sources import from_environment, from_file
from ifserver.errors import ConfigurationError

TEXT = "Folders of the log."


@pytest.fixture(autouse=True)
def field(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The section ``log`` with one more field."""
    made = type(LogSettings)(
        "LogSettings",
        (LogSettings,),
        {
            "__module__": __name__,
            "__annotations__": {
                "folder_names": Annotated[
                    tuple[str, ...],
                    TEXT,
                    flag("-z", "--folder", value="FOLDER[,...]", common=True),
                    check(problem_of_path),
                    LIVE,
                ]
            },
            "folder_names": ("/a",),
        },
        frozen=True,
        kw_only=True,
    )
    monkeypatch.setitem(SECTIONS, "log", made)  # type: ignore[arg-type]
    arguments.make_parser.cache_clear()  # type: ignore[attr-defined]
    all_settings.cache_clear()
    yield
    arguments.make_parser.cache_clear()  # type: ignore[attr-defined]
    all_settings.cache_clear()


@pytest.mark.parametrize("name", ["-z", "--folder", "--folder-names"])
def test_its_flag(name: str) -> None:
    configuration = arguments.parse(["serve", name, "/b", name, "/c"], {}).configuration
    assert configuration.of("log.folder_names") == (("/b", "/c"), name)
    with pytest.raises(ConfigurationError, match=rf"^{name}: log.folder_names: 'b': expected a pattern of paths"):
        arguments.parse(["serve", name, "b"], {})


def test_its_variable_and_its_key() -> None:
    variable = from_environment({"IFSERVER_LOG_FOLDER_NAMES": "/b,/c"})
    assert Configuration(variable).of("log.folder_names") == (("/b", "/c"), "IFSERVER_LOG_FOLDER_NAMES")
    key = from_file('[log]\nfolder_names = ["/b"]\n', "i.toml")
    assert Configuration(key).of("log.folder_names") == (("/b",), "i.toml:2")
    assert "log.folder_names" in live_paths()


def test_its_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "worker"):
        with pytest.raises(SystemExit):
            make_parser(whole=False).parse_args([command, "--help"])
        out = " ".join(capsys.readouterr().out.split())
        assert "-z FOLDER[,...], --folder-names FOLDER[,...], --folder FOLDER[,...] folders of the log" in out
    assert f'# {TEXT}\n#folder_names = ["/a"]\n' in manual.example()
    assert 'log.folder_names                          ["/a"]' in manual.table(Configuration({}), {})
    path = Path(__file__).parents[2] / "docs/generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    made = {path.name: make() for path, make in generate.PAGES.items()}
    for name in ("settings.rst", "commands.rst", "ifserver.1", "ifserver.bash", "_ifserver", "ifserver.fish"):
        assert "folder-names" in made[name].replace("\\", ""), name
