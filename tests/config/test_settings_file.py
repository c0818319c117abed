"""A file with settings: what it says, and on which line it is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifserver.config.configuration import Given
from ifserver.config.settings_file import _lines, from_file
from ifserver.errors import ConfigurationError


def refused(text: str) -> str:
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
    assert refused(text).startswith(said)
    assert "123456" not in refused(text), "which is a secret"


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
