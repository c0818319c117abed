"""What people are shown of the settings; and that the documentation is in step with them."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from ifserver.config import manual
from ifserver.config.configuration import Configuration, Given
from ifserver.config.pools import settings_of_pool
from ifserver.config.schema import Kind
from ifserver.config.settings import FrontSettings, all_settings
from ifserver.config.sources import from_file
from ifserver.errors import ConfigurationError

PAGE = Path(__file__).parents[2] / "docs/reference/settings.rst"
GIVEN = Configuration(
    {
        "front.max_body_bytes": Given(2**20, "ifserver.toml:12"),
        "front.websocket_timeout_s": Given(90.0, "--websocket-timeout"),
        "front.admin_token": Given("geheim", "IFSERVER_FRONT_ADMIN_TOKEN"),
        "layer.clusters": Given((Given("east=redis://me:geheim@h,redis://i", "ifserver.toml:3"),), "ifserver.toml:2"),
    },
    "ifserver.toml",
)


def line(path: str, text: str) -> list[str]:
    """The columns of a setting."""
    [found] = [line for line in text.splitlines() if line.startswith(f"{path} ")]
    return re.split(r"  +", found)


def test_the_table() -> None:
    text = manual.table(GIVEN, {})
    assert text.startswith("file: ifserver.toml\n\nsetting ")
    assert line("front.max_body_bytes", text)[1:] == ['"1MiB"', "ifserver.toml:12"]
    assert line("front.websocket_timeout_s", text)[1:] == ['"90s"', "--websocket-timeout"]
    assert line("front.retry_after_s", text)[1:] == ['"1s"', "default"]
    assert line("worker.application", text)[1:] == ["-", "default"]
    assert line("layer.clusters", text)[1:] == ["east: east-1 (redis h:6379), east-2 (redis i:6379)", "ifserver.toml:2"]
    assert len(text.splitlines()) == 3 + len(all_settings())


def test_the_table_without_a_file_and_clusters() -> None:
    text = manual.table(Configuration({}), {})
    assert text.startswith("file: none\n")
    assert line("layer.clusters", text)[1:] == ["-", "default"]


@pytest.mark.parametrize(
    ("given", "host", "port"),
    [
        ({}, ('"127.0.0.1"', "default"), ("8000", "default")),
        ({"listen.port": 80}, ('"127.0.0.1"', "default"), ("80", "f:1")),
        ({"listen.host": "::1"}, ('"::1"', "f:1"), ("8000", "default")),
        ({"listen.unix": "/x"}, ('"none"', "default"), ('"none"', "default")),
    ],
)
def test_the_address_is_the_one_that_holds(
    given: dict[str, object], host: tuple[str, str], port: tuple[str, str]
) -> None:
    configuration = Configuration({path: Given(value, "f:1") for path, value in given.items()})
    text = manual.table(configuration, {})
    assert (tuple(line("listen.host", text)[1:]), tuple(line("listen.port", text)[1:])) == (host, port)
    found = msgspec.json.decode(manual.json(configuration, {}))
    assert found["listen.port"]["value"] == (None if port[0] == '"none"' else int(port[0]))


def test_json() -> None:
    found = msgspec.json.decode(manual.json(GIVEN, {}))
    assert list(found) == list(all_settings())
    assert found["front.max_body_bytes"] == {"value": 2**20, "from": "ifserver.toml:12"}
    assert found["worker.application"] == {"value": None, "from": "default"}
    assert found["layer.clusters"]["value"] == {"east": ["east-1 (redis h:6379)", "east-2 (redis i:6379)"]}


def test_nobody_is_shown_a_password() -> None:
    front = GIVEN.make(FrontSettings)
    assert front.admin_token == "geheim"
    for text in (manual.table(GIVEN, {}), manual.json(GIVEN, {}), repr(GIVEN.clusters({})), repr(front), str(front)):
        assert "geheim" not in text
    assert line("front.admin_token", manual.table(GIVEN, {}))[1:] == ["***", "IFSERVER_FRONT_ADMIN_TOKEN"]
    assert line("worker.admin_token", manual.table(GIVEN, {}))[1:] == ['"none"', "default"]
    found = msgspec.json.decode(manual.json(GIVEN, {}))
    assert found["front.admin_token"] == {"value": "***", "from": "IFSERVER_FRONT_ADMIN_TOKEN"}
    assert found["worker.admin_token"] == {"value": None, "from": "default"}


@pytest.mark.parametrize(
    "given",
    [
        {"front.root_path": "x"},
        {"layer.clusters": (Given("a=http://x", "f:1"),)},
        {"layer.clusters": (Given("a=redis://x", "f:1"),), "layer.home": "b"},
        {"worker.application": "x"},
    ],
)
def test_what_cannot_be_is_found(given: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=r"^f:1: "):
        manual.check(Configuration({path: Given(value, "f:1") for path, value in given.items()}), {})


def test_what_is_missing_is_not_missed() -> None:
    manual.check(Configuration({}), {})
    manual.check(GIVEN, {})


# The example.


def test_the_example_says_nothing_until_a_line_is_taken_in() -> None:
    assert from_file(manual.example(), "f") == {}


def test_the_example_holds_every_setting_with_exactly_its_default() -> None:
    text = re.sub(r"(?m)^#(\w|\[pools)", r"\1", manual.example())
    given = from_file(text, "f")
    of_pool = {setting.path: setting for setting in settings_of_pool("reports").values()}
    assert set(given) == {*all_settings(), *of_pool, "pools.reports"}
    for path, setting in (*all_settings().items(), *of_pool.items()):
        if not setting.required:
            assert given[path].value == setting.default


def test_each_setting_is_explained_above_its_line() -> None:
    paragraphs = re.split(r"\n\n+", manual.example())
    for setting in all_settings().values():
        if setting.kind is not Kind.CLUSTERS:
            [paragraph, *_] = [each for each in paragraphs if re.search(rf"(?m)^#{setting.name} = ", each)]
            assert paragraph.startswith("# ")
    assert max(map(len, manual.example().splitlines())) <= 120
