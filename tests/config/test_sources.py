"""Settings without a command line: a file's, with the line of an error; the environment's; a Django project's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from ifserver.config import sources
from ifserver.config.configuration import Configuration, Given
from ifserver.config.settings import FrontSettings, ListenSettings
from ifserver.config.sources import _lines, from_environment, from_file, with_port
from ifserver.errors import ConfigurationError

# The file.


def refused_file(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        from_file(text, "i.toml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_a_file_says_and_on_which_lines() -> None:
    text = """\
# A comment.
[listen]
port = 80

[front]
max_body_bytes = "1MiB"  # one
allowed_origins = [
    "https://a",
    # not = "https://b"
]
websocket_timeout_s = "none"

[worker]
application = '''a:b'''
"""
    assert from_file(text, "i.toml") == {
        "listen.port": Given(80, "i.toml:3"),
        "front.max_body_bytes": Given(2**20, "i.toml:6"),
        "front.allowed_origins": Given(("https://a",), "i.toml:7"),
        "front.websocket_timeout_s": Given(None, "i.toml:11"),
        "worker.application": Given("a:b", "i.toml:14"),
    }


def test_clusters_have_a_table_of_their_own() -> None:
    found = from_file('[clusters]\neast = ["redis://a", "redis://b"]\nwest = "redis://c"\n', "i.toml")
    assert found == {
        "layer.clusters": Given(
            (Given("east=redis://a,redis://b", "i.toml:2"), Given("west=redis://c", "i.toml:3")), "i.toml:1"
        )
    }


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing", "[front]", "[front]\n[clusters]\n"])
def test_a_file_may_say_nothing(text: str) -> None:
    assert from_file(text, "i.toml") == {}


@pytest.mark.parametrize(
    "text",
    [
        "front.max_headers = 3",
        "front = { max_headers = 3 }",
        "\"front\".'max_headers' = 3",
        "[front]\r\nmax_headers = 3\r\n",
    ],
)
def test_other_ways_to_write_the_same(text: str) -> None:
    [(path, given)] = from_file(text, "i.toml").items()
    assert (path, given.value) == ("front.max_headers", 3)
    assert given.origin == f"i.toml:{text.count(chr(10)) or 1}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[front]\n\nmax_body_bytes = -1", "i.toml:3: front.max_body_bytes: must be at least 0, got -1"),
        ("[front]\nmax_headers = 0", "i.toml:2: front.max_headers: must be at least 1, got 0"),
        ("[front]\nmax_headers = 'x'", 'i.toml:2: front.max_headers: expected a whole number, got "x"'),
        ("[front]\nmax_body = 1", "i.toml:2: front.max_body: unknown; did you mean front.max_body_bytes?"),
        ("[front]\nxyz = 1", "i.toml:2: front.xyz: unknown"),
        ("[worker]\nadmin_token = 123456", "i.toml:2: worker.admin_token: expected a text"),
        ("max_headers = 1", "i.toml:1: max_headers: unknown; did you mean front.max_headers?"),
        ("\n[frnt]", "i.toml:2: frnt: unknown; did you mean front?"),
        ("[worker.front]", "i.toml:1: worker.front: unknown"),
        ("front = 1", "i.toml:1: front: expected a table, [front]"),
        ("[[front]]\nx = 1", "i.toml:1: front: expected a table, [front]"),
        ("[layer]\nclusters = 'a'", "i.toml:2: layer.clusters: unknown; did you mean clusters?"),
        ("[layer.clusters]\na = 'redis://x'", "i.toml:1: layer.clusters: unknown; did you mean clusters?"),
        ("[clusters]\na.b = 'redis://x'", "i.toml:2: clusters.a: expected a URL or a list of URLs"),
        ("[clusters]\n'a.b' = 'redis://x'", "i.toml:2: clusters: not a node name: 'a.b'"),
        ("[clusters]\n'a=b' = 'redis://x'", "i.toml:2: clusters: not a node name: 'a=b'"),
        ("[clusters]\na = []", "i.toml:2: clusters.a: expected a URL or a list of URLs"),
        ("[clusters]\na = ['redis://:geheim@x', 1]", "i.toml:2: clusters.a: expected a URL or a list of URLs"),
        ("[front]\nmax_headers 3", "i.toml:2: Expected '=' after a key in a key/value pair"),
        ("[front]\nx = '''\n\n", "i.toml:3: Expected "),
        ("[front", "i.toml:1: Expected "),
        ("[front]\n[front]", "i.toml:2: Cannot declare ('front',) twice"),
    ],
)
def test_what_a_file_cannot_say(text: str, said: str) -> None:
    assert refused_file(text).startswith(said)
    assert "123456" not in refused_file(text), "which is a secret"


#: Statements, each of which is one of a section; those of more lines hold what looks like others.
STATEMENTS = st.sampled_from(
    [
        "k{} = 1",
        "k{} = '''\n[front]\nk1 = 2\n'''",
        'k{} = """\\\n  k2 = 3\n"""',
        "k{} = [\n 1,\n # k3 = 4\n]",
        "'k{}' = {{ a = 1, b = [1,\n2] }}",
        "k{} = '='",
        '"k{}" = "a # b"  # c',
    ]
)
FILLERS = st.sampled_from(["", "\n", "# k1 = 5\n", "  # [front]\n\n"])


@given(st.lists(st.tuples(FILLERS, STATEMENTS)), st.sampled_from(["\n", "\r\n"]))
def test_every_key_is_found_on_the_line_where_it_begins(parts: list[tuple[str, str]], end: str) -> None:
    text, expected = "# head\n[front]\n", {("front",): 2}
    for number, (filler, statement) in enumerate(parts):
        text += filler
        expected["front", f"k{number}"] = text.count("\n") + 1
        text += statement.format(number) + "\n"
    assert _lines(text.replace("\n", end)) == expected


def refused(environ: Mapping[str, str]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        from_environment(environ)
    return str(caught.value)


# The settings.


# The environment.


def test_variables() -> None:
    environ = {
        "IFSERVER_FRONT_MAX_BODY_BYTES": "64KiB",
        "IFSERVER_LISTEN_FD": "3,4",
        "IFSERVER_LAYER_CLUSTERS": "a=redis://x,redis://y b=redis://z",
        "HOME": "/",
    }
    assert from_environment(environ) == {
        "front.max_body_bytes": Given(65_536, "IFSERVER_FRONT_MAX_BODY_BYTES"),
        "listen.fd": Given((3, 4), "IFSERVER_LISTEN_FD"),
        "layer.clusters": Given(
            (
                Given("a=redis://x,redis://y", "IFSERVER_LAYER_CLUSTERS"),
                Given("b=redis://z", "IFSERVER_LAYER_CLUSTERS"),
            ),
            "IFSERVER_LAYER_CLUSTERS",
        ),
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("IFSERVER_FRONT_MAX_HEADERS", ""),
        ("IFSERVER_CONFIG", "x.toml"),
        ("IFSERVER_REDIS_PASSWORD", "geheim"),
        ("IFSERVER_REDIS_USERNAME_EAST_1", "me"),
        # A Kubernetes service that is called "ifserver", "ifserver-listen" or "ifserver-web".
        ("IFSERVER_SERVICE_HOST", "10.0.0.1"),
        ("IFSERVER_SERVICE_PORT", "80"),
        ("IFSERVER_SERVICE_PORT_HTTP", "80"),
        ("IFSERVER_PORT", "tcp://10.0.0.1:80"),
        ("IFSERVER_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("IFSERVER_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("IFSERVER_PORT_80_TCP_PORT", "80"),
        ("IFSERVER_LISTEN_PORT", "tcp://10.0.0.1:80"),
        ("IFSERVER_WEB_SERVICE_HOST", "10.0.0.1"),
        ("ifserver_front_x", "1"),
    ],
)
def test_variables_that_say_nothing_here(name: str, text: str) -> None:
    assert from_environment({name: text}) == {}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("IFSERVER_FRONT_MAX_HEADER", "1", "unknown; did you mean IFSERVER_FRONT_MAX_HEADERS?"),
        ("IFSERVER_MAX_BODY_BYTES", "1", "unknown; did you mean IFSERVER_FRONT_MAX_BODY_BYTES?"),
        ("IFSERVER_FRONT_FROB", "1", "unknown"),
        ("IFSERVER_CONFG", "1", "unknown; did you mean IFSERVER_CONFIG?"),
        ("IFSERVER_PORT", "80", "unknown; did you mean IFSERVER_LISTEN_PORT?"),
        ("IFSERVER_FRONT_MAX_HEADERS", "0", "front.max_headers: must be at least 1, got 0"),
        ("IFSERVER_FRONT_MAX_HEADERS", "x", "front.max_headers: expected a whole number, got 'x'"),
        ("IFSERVER_LISTEN_PORT", "65536", "listen.port: must be at most 65535, got 65536"),
        ("IFSERVER_FRONT_ROOT_PATH", "/\udcff", "front.root_path: not UTF-8: '/\\udcff'"),
        ("IFSERVER_FRONT_ADMIN_TOKEN", "geheim\udcff", "front.admin_token: not UTF-8"),
    ],
)
def test_a_variable_that_cannot_be(name: str, text: str, said: str) -> None:
    assert refused({name: text}) == f"{name}: {said}"


# PORT.


@pytest.mark.parametrize(
    ("given", "tcp"),
    [
        ({}, ("0.0.0.0", 5000)),
        ({"listen.host": "::1"}, ("::1", 5000)),
        ({"listen.port": 80}, ("127.0.0.1", 80)),
        ({"listen.unix": "/x"}, None),
        ({"listen.fd": (3,)}, None),
        ({"listen.endpoints": ("tcp:1",)}, None),
    ],
)
def test_port_counts_where_nothing_more_specific_is_given(
    given: dict[str, object], tcp: tuple[str, int] | None
) -> None:
    found = with_port({path: Given(value, "f:1") for path, value in given.items()}, {"PORT": "5000"})
    assert Configuration(found).make(ListenSettings).tcp == tcp


def test_where_the_address_came_from() -> None:
    found = Configuration(with_port({}, {"PORT": "5000"}))
    assert (found.of("listen.host"), found.of("listen.port")) == (Given("0.0.0.0", "PORT"), Given(5000, "PORT"))


@pytest.mark.parametrize("environ", [{}, {"PORT": ""}])
def test_without_port(environ: dict[str, str]) -> None:
    assert with_port({}, environ) == {}


def test_no_port() -> None:
    with pytest.raises(ConfigurationError, match=r"^PORT: listen.port: expected a whole number, got 'http'$"):
        with_port({}, {"PORT": "http"})


def test_made_structs_have_what_their_types_say() -> None:
    """A duration is a float, also from a text, so that children get what a struct's decoder takes."""
    made = Configuration(
        from_environment({"IFSERVER_FRONT_QUEUE_TIMEOUT_S": "2m", "IFSERVER_FRONT_RETRY_AFTER_S": "3"})
    )
    front = structs.asdict(made.make(FrontSettings))
    assert (type(front["queue_timeout_s"]), type(front["retry_after_s"])) == (float, int)


# A Django project.


def test_what_a_django_project_says() -> None:
    tables = {
        "front": {"allowed_origins": ("https://a",), "server_header": None, "max_body_bytes": "1MiB"},
        "worker": {"env_file": Path("/x"), "drain_timeout_s": timedelta(minutes=1)},
        "clusters": {"east": ["redis://a"]},
    }
    assert sources.from_django(tables) == {
        "front.allowed_origins": Given(("https://a",), 'IFSERVER["front"]["allowed_origins"]'),
        "front.server_header": Given(None, 'IFSERVER["front"]["server_header"]'),
        "front.max_body_bytes": Given(2**20, 'IFSERVER["front"]["max_body_bytes"]'),
        "worker.env_file": Given("/x", 'IFSERVER["worker"]["env_file"]'),
        "worker.drain_timeout_s": Given(60.0, 'IFSERVER["worker"]["drain_timeout_s"]'),
        "layer.clusters": Given((Given("east=redis://a", 'IFSERVER["clusters"]["east"]'),), 'IFSERVER["clusters"]'),
    }


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"front": {"xyz": 1}}, 'IFSERVER["front"]["xyz"]: front.xyz: unknown'),
        ({"fornt": {}}, 'IFSERVER["fornt"]: fornt: unknown; did you mean front?'),
        ({"front": 1}, 'IFSERVER["front"]: front: expected a dict'),
        (
            {"front": {"max_headers": 0}},
            'IFSERVER["front"]["max_headers"]: front.max_headers: must be at least 1, got 0',
        ),
        ({"front": {"max_headers": object}}, 'IFSERVER["front"]["max_headers"]: front.max_headers: expected a'),
        ([], "IFSERVER: expected a dict of sections, got list"),
    ],
)
def test_what_it_cannot_say(tables: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        sources.from_django(tables)
    assert str(caught.value).startswith(said)


def test_file_and_environment_win_against_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ifserver.toml").write_text("[front]\nmax_headers = 2\nmax_pipelined = 2\n")
    project = {"front": {"max_headers": 1, "max_pipelined": 1, "retry_after_s": 1}, "worker": {"application": "a:b"}}
    environ = {
        sources.PROJECT_VARIABLE: sources.encode_project(project, {"worker": {"application": "c:d", "app_dir": "e"}}),
        "IFSERVER_FRONT_MAX_PIPELINED": "3",
    }
    configuration = sources.configuration(environ)
    values = [configuration.of(f"front.{name}").value for name in ("max_headers", "max_pipelined", "retry_after_s")]
    assert values == [2, 3, 1]
    assert configuration.of("worker.application").value == "a:b"
    assert configuration.of("worker.app_dir") == Given("e", "manage.py")
