"""What the flags mean, and the file and the environment beside them; with the defaults where nothing is said."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from ifserver.config import arguments as a
from ifserver.config.node_urls import NodeSettings
from ifserver.config.pools import PoolWorkers, workers_of
from ifserver.config.settings import FrontSettings, ListenSettings, WorkerSettings
from ifserver.errors import ConfigurationError

RUN = ("run", "m:a")
SERVE = ("serve", "--cluster", "main=redis://localhost")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, and nothing of ours in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name == "PORT" or name.startswith("IFSERVER_")]:
        monkeypatch.delenv(name)
    return tmp_path


def front(*flags: str, command: tuple[str, ...] = RUN) -> FrontSettings:
    return a.command_settings(a.parse([*command, *flags])).front


def worker(*flags: str) -> WorkerSettings:
    return a.command_settings(a.parse([*RUN, *flags])).worker


def bind(*flags: str) -> ListenSettings:
    return a.command_settings(a.parse([*RUN, *flags])).listen


def nodes(*clusters: str) -> list[NodeSettings]:
    given = a.parse(["serve", *(word for cluster in clusters for word in ("--cluster", cluster))])
    return [node for cluster in a.command_settings(given).layer.clusters for node in cluster.nodes]


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
        (("--max-body-bytes", "none"), "max_body_bytes", None),
        (("--max-body-bytes", "2MiB"), "max_body_bytes", 2**21),
        (("--queue-timeout", "2m"), "queue_timeout_s", 120.0),
        (("--response-timeout", "500ms"), "response_timeout_s", 0.5),
        (("--retry-after", "1m"), "retry_after_s", 60),
        (("--retry-methods", "GET,PUT", "--retry-methods", "HEAD"), "retry_methods", ("GET", "PUT", "HEAD")),
        (("--front-drain-timeout", "3"), "drain_timeout_s", 3.0),
        (("--drain-timeout", "3"), "drain_timeout_s", 3.0),
        (("--drain-timeout", "3", "--drain-timeout", "4"), "drain_timeout_s", 4.0),
        (("-s", "mine", "--no-server-name"), "server_header", None),
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


def test_folders_that_are_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path)
    found = worker(
        "--reload-dir", "one", "--reload-dir", "two", "--reload-include", "*.yaml", "--reload-exclude", "media"
    )
    assert found.reload_dirs == (str(tmp_path / "one"), str(tmp_path / "two"))
    assert (found.reload_include, found.reload_exclude) == (("*.yaml",), ("media",))
    with pytest.raises(ConfigurationError, match=r"^--reload-dir: worker.reload_dirs: no such folder: 'nowhere'$"):
        worker("--reload-dir", "one", "--reload-dir", "nowhere")
    with pytest.raises(
        ConfigurationError, match=r"^--reload-exclude: worker.reload_exclude: '/srv': expected a pattern"
    ):
        worker("--reload-exclude", "/srv")


def test_app_dir_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    assert worker("--app-dir", "link").app_dir == str(tmp_path / "real")
    with pytest.raises(ConfigurationError, match="no such folder: 'nowhere'"):
        worker("--app-dir", "nowhere")


def test_a_worker_command_has_both_kinds_of_flags() -> None:
    given = a.parse(["worker", "m:a", "--cluster", "b=redis://h", "--cluster", "c=redis://i", "--home", "c", "-v", "2"])
    assert a.command_settings(given).layer.home_cluster.name == "c"
    assert a.command_settings(given).worker.application == "m:a"
    assert a.command_settings(given).log.verbosity == 2


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
    assert (found.fd, found.endpoints, found.unix) == ((3, 4), ("tcp:1", "tcp:2"), "/x")


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


def test_the_plain_flag_means_every_section_that_has_the_setting() -> None:
    flags = ("--worker-drain-timeout", "4", "--drain-timeout", "3")
    given = a.parse([*RUN, *flags])
    assert (a.command_settings(given).front.drain_timeout_s, a.command_settings(given).worker.drain_timeout_s) == (
        3.0,
        4.0,
    )


def test_the_last_flag_wins_and_switches_can_be_turned_both_ways() -> None:
    assert worker("--reload", "--no-reload").reload is False
    assert front("--no-websocket-compression", "--websocket-compression").websocket_compression is True


@pytest.mark.parametrize(
    "words", [("m:a", "-p", "0"), ("-p", "0", "m:a"), ("--reload", "m:a", "-p", "0"), ("--application", "m:a")]
)
def test_the_application_may_stand_anywhere(words: tuple[str, ...]) -> None:
    assert a.command_settings(a.parse(["run", *words])).worker.application == "m:a"


@pytest.mark.parametrize("flag", ["--timeout", "--work", "--ver", "--http-time"])
def test_flags_are_not_abbreviated_by_chance(flag: str) -> None:
    with pytest.raises(SystemExit):
        a.parse([*RUN, flag, "1"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--max-body-byte", "1"), "unrecognized arguments: --max-body-byte 1; did you mean --max-body-bytes?"),
        (("--max-body-byte=1",), "unrecognized arguments: --max-body-byte=1; did you mean --max-body-bytes?"),
        (("--prot", "1"), "unrecognized arguments: --prot 1; did you mean --port?"),
        (("--frob",), "ifserver: error: unrecognized arguments: --frob (see ifserver run --help)"),
        (("b:c",), "unrecognized arguments: b:c (see"),
        (("--clusterz", "a=redis://me:ge/h@im@x"), "unrecognized arguments: --clusterz a=redis://***@x (see"),
    ],
)
def test_what_nobody_knows(flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        a.parse([*RUN, *flags])
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words", "path"),
    [
        ("run", ("m:a", "--admin-token", "geheim"), "front.admin_token"),
        ("serve", ("--front-admin-token=geheim",), "front.admin_token"),
        ("worker", ("m:a", "--admin-token=geheim"), "worker.admin_token"),
    ],
)
def test_secrets_have_no_flags(
    command: str, words: tuple[str, ...], path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        a.parse([command, *words])
    variable = f"IFSERVER_{path.replace('.', '_').upper()}"
    said = capsys.readouterr().err
    assert f"{path} has no flag: give it in the environment, {variable}, or in a file" in said
    assert "geheim" not in said


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("-u", "/\udcff"), "-u: listen.unix: not UTF-8: "),
        (("-e", "unix:/\udcff"), "-e: listen.endpoints: not UTF-8: "),
        (("-t", "soon"), "-t: front.response_timeout_s: expected a duration such as 90s, 2m or 500ms, got 'soon'"),
        (("--max-body-bytes", "-2"), "--max-body-bytes: front.max_body_bytes: must be at least 0, got -2"),
        (("--underscores-in-headers", "x"), "--underscores-in-headers: front.underscores_in_headers: must be drop, "),
    ],
)
def test_a_flag_that_cannot_be(flags: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        front(*flags)
    assert str(caught.value).startswith(said)


# The file and the environment.


def test_flag_before_variable_before_file_before_default(folder: Path) -> None:
    (folder / "ifserver.toml").write_text("[front]\nmax_headers = 11\nmax_pipelined = 11\nmax_connections = 11\n")
    environ = {"IFSERVER_FRONT_MAX_PIPELINED": "12", "IFSERVER_FRONT_MAX_CONNECTIONS": "12"}
    given = a.parse([*RUN, "--max-connections", "13"], environ)
    assert {path: given.configuration.of(f"front.{path}") for path in (
        "max_headers", "max_pipelined", "max_connections", "max_websocket_fragments"
    )} == {
        "max_headers": (11, "ifserver.toml:2"),
        "max_pipelined": (12, "IFSERVER_FRONT_MAX_PIPELINED"),
        "max_connections": (13, "--max-connections"),
        "max_websocket_fragments": (65_537, "default"),
    }  # fmt: skip
    assert given.configuration.file == "ifserver.toml"


@pytest.mark.parametrize("text", ["", "\ufeff[log]\nverbosity = 2"])
def test_no_file_an_empty_one_and_one_from_windows(folder: Path, text: str) -> None:
    assert a.parse(RUN).configuration.file is None
    (folder / "ifserver.toml").write_text(text, encoding="utf-8")
    given = a.parse(RUN)
    assert (given.configuration.file, a.command_settings(given).log.verbosity) == ("ifserver.toml", 2 if text else 1)


def test_a_file_that_is_named(folder: Path) -> None:
    (folder / "ifserver.toml").write_text("not read")
    (folder / "x.toml").write_text("[front]\nmax_headers = 3")
    (folder / "y.toml").write_text("[front]\nmax_headers = 4")
    environ = {"IFSERVER_CONFIG": "y.toml"}
    assert a.parse(RUN, environ).configuration.of("front.max_headers") == (4, "y.toml:2")
    assert a.parse([*RUN, "--config", "x.toml"], environ).configuration.of("front.max_headers") == (3, "x.toml:2")


@pytest.mark.parametrize(
    ("words", "environ", "said"),
    [
        (("--config", "no.toml"), {}, "--config 'no.toml': No such file or directory"),
        (("--config", "."), {}, "--config '.': Is a directory"),
        ((), {"IFSERVER_CONFIG": "no.toml"}, "IFSERVER_CONFIG 'no.toml': No such file or directory"),
        (("--config", "latin.toml"), {}, "latin.toml: not UTF-8 at byte 2"),
    ],
)
def test_a_file_that_cannot_be_read(folder: Path, words: tuple[str, ...], environ: dict[str, str], said: str) -> None:
    (folder / "latin.toml").write_bytes(b"# \xe4")
    with pytest.raises(ConfigurationError) as caught:
        a.parse([*RUN, *words], environ)
    assert str(caught.value) == said


def test_a_folder_of_that_name(folder: Path) -> None:
    (folder / "ifserver.toml").mkdir()
    with pytest.raises(ConfigurationError, match=r"^ifserver.toml: Is a directory$"):
        a.parse(RUN)


def test_one_file_for_all_commands(folder: Path) -> None:
    (folder / "ifserver.toml").write_text(
        """\
[worker]
application = "m:a"
[front]
max_headers = 3
[clusters]
east = ["redis://a", "redis://b"]
west = "redis://c"
[layer]
home = "west"
"""
    )
    run, serve, worker = (a.parse([command]) for command in ("run", "serve", "worker"))
    assert a.command_settings(run).front == a.command_settings(serve).front == FrontSettings(max_headers=3)
    assert a.command_settings(serve).layer == a.command_settings(worker).layer
    assert a.command_settings(serve).layer.home_cluster.name == "west"
    assert a.command_settings(run).worker == a.command_settings(worker).worker
    assert a.command_settings(a.parse(["run", "n:b"])).worker.application == "n:b"


def test_clusters_of_a_flag_stand_instead_of_those_of_the_file(folder: Path) -> None:
    (folder / "ifserver.toml").write_text('[clusters]\neast = "redis://a"')
    assert [cluster.name for cluster in a.command_settings(a.parse(["serve"])).layer.clusters] == ["east"]
    assert [node.name for node in nodes("main=redis://x")] == ["main"]


def test_a_password_of_the_environment() -> None:
    [cluster] = a.command_settings(a.parse(SERVE), {"IFSERVER_REDIS_PASSWORD": "geheim"}).layer.clusters
    assert cluster.nodes[0].password == "geheim"


def test_port_of_the_environment() -> None:
    environ = {"PORT": "5000"}
    assert a.command_settings(a.parse(RUN, environ)).listen.tcp == ("0.0.0.0", 5000)
    assert a.command_settings(a.parse([*RUN, "-p", "1"], environ)).listen.tcp == ("127.0.0.1", 1)
    assert a.parse(["worker", "m:a"], {"PORT": "not ours"}).configuration.of("listen.port") == (None, "default")


def test_a_folder_of_the_file_that_does_not_exist(folder: Path) -> None:
    (folder / "ifserver.toml").write_text("[worker]\napp_dir = 'nowhere'")
    with pytest.raises(ConfigurationError, match=r"^ifserver.toml:2: worker.app_dir: no such folder: 'nowhere'$"):
        worker()


def workers(given: argparse.Namespace) -> list[PoolWorkers]:
    """What the workers of each pool run."""
    settings = a.command_settings(given)
    assert settings.worker is not None
    return workers_of(settings.pools, settings.worker, settings.worker.pools)


def test_pools_of_the_commands(folder: Path) -> None:
    (folder / "ifserver.toml").write_text('[pools.api]\napplication = "c:d"\nprocesses = 2\n')
    run = a.parse(["run", "m:a", "--http", "m:w", "--workers", "1"])
    assert [pool.name for pool in a.command_settings(run).pools] == ["api", "http", "default"]
    found = [(each.pool, each.settings.application, each.settings.processes) for each in workers(run)]
    assert found == [("api", "c:d", 2), ("http", "m:w", 1), ("default", "m:a", 1)]
    clusters = ("--cluster", "b=redis://h")
    assert [each.pool for each in workers(a.parse(["worker", "m:a", "--pool", "default", *clusters]))] == ["default"]
    assert [each.pool for each in workers(a.parse(["worker", "--pool", "api", *clusters]))] == ["api"]
    assert [pool.name for pool in a.command_settings(a.parse(["serve", *clusters])).pools] == ["api"]
    with pytest.raises(ConfigurationError, match=r"^--pool: worker\.pools: no pool is named 'x', there are: api$"):
        a.command_settings(a.parse(["worker", "--pool", "x"]))


def test_without_pools_there_is_one_that_has_no_name() -> None:
    given = a.parse(["run", "m:a"])
    assert a.command_settings(given).pools == ()
    assert [(each.pool, each.settings) for each in workers(given)] == [("", a.command_settings(given).worker)]


@pytest.mark.parametrize("word", ["auto", "h11", "httptools"])
def test_http_is_another_thing_in_uvicorn(word: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--http names an application that answers HTTP only$"):
        a.parse(["run", "m:a", "--http", word])
