"""What the flags mean: settings, with the defaults of `ifserver.settings` where nothing is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ifserver import arguments as a
from ifserver.errors import ConfigurationError
from ifserver.settings import FrontSettings, NodeSettings, WorkerSettings

RUN = ("run", "m:a")
SERVE = ("serve", "--cluster", "main=redis://localhost")


def front(*flags: str, command: tuple[str, ...] = RUN) -> FrontSettings:
    return a.front_settings(a.parse([*command, *flags]))


def worker(*flags: str) -> WorkerSettings:
    return a.worker_settings(a.parse([*RUN, *flags]))


def bind(*flags: str) -> a.Bind:
    return a.bind_of(a.parse([*RUN, *flags]))


def nodes(*clusters: str) -> list[NodeSettings]:
    given = a.parse(["serve", *(word for cluster in clusters for word in ("--cluster", cluster))])
    return [node for cluster in a.layer_settings(given).clusters for node in cluster.nodes]


@pytest.mark.parametrize("command", [RUN, SERVE])
def test_without_flags_the_front_has_its_defaults(command: tuple[str, ...]) -> None:
    assert front(command=command) == FrontSettings()


def test_without_flags_a_worker_has_its_defaults() -> None:
    assert worker() == WorkerSettings(application="m:a", app_dir=os.getcwd())


@pytest.mark.parametrize("command", [RUN, SERVE])
@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (("-t", "7"), "response_timeout_s", 7.0),
        (("--http-timeout", "0.5"), "response_timeout_s", 0.5),
        (("--websocket_timeout", "9"), "websocket_timeout_s", 9.0),
        (("--websocket-timeout", "9"), "websocket_timeout_s", 9.0),
        (("--websocket_timeout", "-1"), "websocket_timeout_s", None),
        (("--websocket_connect_timeout", "3"), "websocket_connect_timeout_s", 3.0),
        (("--websocket-connect-timeout", "3"), "websocket_connect_timeout_s", 3.0),
        (("--ping-interval", "0"), "ping_interval_s", 0.0),
        (("--ping-timeout", "4"), "ping_timeout_s", 4.0),
        (("--root-path", "/app"), "root_path", "/app"),
        (("--root-path", "/app/"), "root_path", "/app"),
        (("--root-path", "/"), "root_path", ""),
        (("-s", "mine/1"), "server_header", "mine/1"),
        (("--server-name", "mine"), "server_header", "mine"),
        (("--no-server-name",), "server_header", None),
        (("--access-log", "-"), "access_log", "-"),
        (("--proxy-headers",), "trusted_proxies", ("127.0.0.0/8", "::1")),
        (("--proxy-protocol",), "proxy_protocol", True),
        (("--header-timeout", "3"), "header_timeout_s", 3.0),
        (("--body-timeout", "3"), "body_timeout_s", 3.0),
        (("--write-timeout", "3"), "write_timeout_s", 3.0),
        (("--keep-alive-timeout", "0"), "keep_alive_timeout_s", 0.0),
        (("--max-connections", "3"), "max_connections", 3),
        (("--max-body-bytes", "3"), "max_body_bytes", 3),
        (("--max-body-bytes", "-1"), "max_body_bytes", None),
        (("--underscores-in-headers", "allow"), "underscores_in_headers", "allow"),
        (("--no-websocket-compression",), "websocket_compression", False),
        (
            ("--allowed-origins", "https://a.example, http://B.example:81"),
            "allowed_origins",
            ("https://a.example", "http://b.example:81"),
        ),
    ],
)
def test_a_flag_of_the_front(command: tuple[str, ...], flags: tuple[str, ...], name: str, value: object) -> None:
    found = front(*flags, command=command)
    assert getattr(found, name) == value
    assert {each for each in found.__struct_fields__ if getattr(found, each) != getattr(FrontSettings(), each)} <= {
        name
    }


@pytest.mark.parametrize("flags", [("--trusted-proxies", "10.0.0.1, ::1"), ("--proxy-headers",)])
def test_who_is_trusted_may_speak_both_ways(flags: tuple[str, ...]) -> None:
    """With headers, and with the PROXY protocol."""
    found = front("--proxy-headers", "--proxy-protocol", *flags)
    assert found.trusted_proxies == found.proxy_protocol_networks
    assert found.trusted_proxies == (("10.0.0.1", "::1") if flags[1:] else ("127.0.0.0/8", "::1"))
    assert front("--proxy-protocol").trusted_proxies == ()


def test_who_says_how_many_connections_a_client_may_have_means_this_machine_too() -> None:
    found = front("--max-connections-per-client", "3")
    assert (found.max_connections_per_client, found.uncounted_networks) == (3, ())


@pytest.mark.parametrize(
    ("flags", "name", "value"),
    [
        (("--workers", "3"), "processes", 3),
        (("--processes", "3"), "processes", 3),
        (("--concurrency", "5"), "concurrency", 5),
        (("--max-streams", "6"), "max_streams", 6),
        (("--reload",), "reload", True),
    ],
)
def test_a_flag_of_the_workers(flags: tuple[str, ...], name: str, value: object) -> None:
    assert getattr(worker(*flags), name) == value


def test_app_dir_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    assert worker("--app-dir", "link").app_dir == str(tmp_path / "real")
    with pytest.raises(ConfigurationError, match="no such folder: 'nowhere'"):
        worker("--app-dir", "nowhere")


def test_a_worker_command_has_both_kinds_of_flags() -> None:
    given = a.parse(["worker", "m:a", "--cluster", "b=redis://h", "--cluster", "c=redis://i", "--home", "c", "-v", "2"])
    assert a.layer_settings(given).home_cluster.name == "c"
    assert a.worker_settings(given).application == "m:a"
    assert given.verbosity == 2


@pytest.mark.parametrize(
    ("flags", "tcp"),
    [
        ((), ("127.0.0.1", 8000)),
        (("-p", "9000"), ("127.0.0.1", 9000)),
        (("-p", "0"), ("127.0.0.1", 0)),
        (("-b", "0.0.0.0"), ("0.0.0.0", 8000)),
        (("-b", "::1", "-p", "1"), ("::1", 1)),
        (("-u", "/x"), None),
        (("--fd", "3"), None),
        (("-e", "tcp:1"), None),
        (("-u", "/x", "-p", "1"), ("127.0.0.1", 1)),
        (("-u", "/x", "-b", "::1"), ("::1", 8000)),
    ],
)
def test_where_is_listened(flags: tuple[str, ...], tcp: tuple[str, int] | None) -> None:
    assert bind(*flags).tcp == tcp


def test_several_places_to_listen() -> None:
    found = bind("--fd", "3", "--fd", "4", "-e", "tcp:1", "-e", "tcp:2", "-u", "/x")
    assert (found.fds, found.endpoints, found.unix) == ([3, 4], ["tcp:1", "tcp:2"], "/x")


def test_nodes_are_named_after_their_cluster() -> None:
    assert [node.name for node in nodes("one=redis://a", "two=redis://a,redis://b")] == ["one", "two-1", "two-2"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", {"address": ("h", 6379)}),
        ("redis://h:1/2", {"address": ("h", 1), "database": 2}),
        ("redis://[::1]:1", {"address": ("::1", 1)}),
        ("redis://u:p@h", {"address": ("h", 6379), "username": "u", "password": "p"}),
        ("redis://:p%40%2F@h", {"address": ("h", 6379), "password": "p@/"}),
        ("redis+unix:///x/y.sock?db=3", {"path": "/x/y.sock", "database": 3}),
        ("redis+unix://:p@/x", {"path": "/x", "password": "p"}),
    ],
)
def test_the_url_of_a_node(url: str, expected: dict[str, object]) -> None:
    assert nodes(f"n={url}") == [NodeSettings(name="n", kind="redis", **expected)]  # type: ignore[arg-type]


def test_a_node_is_shown_without_its_password() -> None:
    [node] = nodes("n=redis://user:geheim@h:1/2")
    assert str(node) == "n (redis h:1)"


@pytest.mark.parametrize("flag", ["--timeout", "--work", "--ver"])
def test_flags_are_not_abbreviated_by_chance(flag: str) -> None:
    with pytest.raises(SystemExit):
        a.parse([*RUN, flag, "1", "--nonsense"])
