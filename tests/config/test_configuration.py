"""Which value holds, where it came from, and that an error says so."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from msgspec import NODEFAULT, structs

from ifserver.config.configuration import (
    DEFAULT,
    SECTIONS,
    Configuration,
    Given,
    all_settings,
    from_environment,
    located,
    unknown,
    with_port,
)
from ifserver.config.settings import FrontSettings, LayerSettings, ListenSettings, WorkerSettings
from ifserver.errors import ConfigurationError

CLUSTERS = {"layer.clusters": Given((Given("a=redis://h", "f:2"), Given("b=redis://i,redis://j", "f:3")), "f:1")}


def configuration(**given: object) -> Configuration:
    return Configuration({path.replace("__", "."): Given(value, f"f:{path}") for path, value in given.items()})


def refused(environ: Mapping[str, str]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        from_environment(environ)
    return str(caught.value)


# The settings.


def test_every_field_of_every_section_is_a_setting_with_a_variable_of_its_own() -> None:
    settings = all_settings()
    fields = [f"{section}.{name}" for section, struct in SECTIONS.items() for name in struct.__struct_fields__]
    assert list(settings) == fields
    assert len({setting.variable for setting in settings.values()}) == len(settings)
    assert settings["front.max_body_bytes"].variable == "IFSERVER_FRONT_MAX_BODY_BYTES"


def test_what_nobody_gave_has_its_default() -> None:
    nothing = configuration()
    for path, setting in all_settings().items():
        assert nothing.of(path) == Given(setting.default, DEFAULT)
    assert nothing.make(FrontSettings) == FrontSettings()
    assert nothing.make(ListenSettings) == ListenSettings()
    assert nothing.of("worker.application").value is NODEFAULT


def test_what_was_given_holds() -> None:
    made = configuration(front__max_headers=3, worker__processes=2)
    assert made.of("front.max_headers") == Given(3, "f:front__max_headers")
    assert made.make(FrontSettings) == FrontSettings(max_headers=3)
    assert made.make(WorkerSettings, application="a:b") == WorkerSettings(application="a:b", processes=2)
    assert (made.has("front.max_headers"), made.has("front.max_connections")) == (True, False)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, FrontSettings()),
        ({"front__max_connections_per_client": 3}, FrontSettings(max_connections_per_client=3, uncounted_networks=())),
        (
            {"front__max_connections_per_client": 3, "front__uncounted_networks": ("::1",)},
            FrontSettings(max_connections_per_client=3, uncounted_networks=("::1",)),
        ),
        (
            {"front__trusted_proxies": ("::2",)},
            FrontSettings(trusted_proxies=("::2",), proxy_protocol_networks=("::2",)),
        ),
        ({"front__trusted_proxies": ()}, FrontSettings()),
        ({"front__allowed_origins": ("https://A",)}, FrontSettings(allowed_origins=("https://a",))),
        ({"front__root_path": "/app/"}, FrontSettings(root_path="/app")),
    ],
)
def test_one_setting_may_follow_from_another(given: dict[str, object], found: FrontSettings) -> None:
    assert configuration(**given).make(FrontSettings) == found


def test_what_follows_says_from_what() -> None:
    made = configuration(front__trusted_proxies=("::2",))
    assert made.of("front.proxy_protocol_networks") == Given(("::2",), "follows from front.trusted_proxies")


def test_for_development_one_worker_runs_and_an_edit_closes_no_websocket() -> None:
    made = configuration(worker__reload=True)
    assert made.of("worker.processes") == Given(1, "follows from worker.reload")
    assert made.make(FrontSettings).resumable_paths == ("*",)
    made = configuration(worker__reload=True, worker__processes=3, front__resumable_paths=("/ws/*",))
    assert made.of("worker.processes").value == 3
    assert made.make(FrontSettings).resumable_paths == ("/ws/*",)
    made = configuration(worker__reload=False)
    assert made.of("worker.processes").value is None
    assert made.make(FrontSettings).resumable_paths == ()


# Errors.


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"front__root_path": "x"}, "f:front__root_path: front.root_path: must begin with '/', got 'x'"),
        ({"front__trusted_proxies": ("x",)}, "f:front__trusted_proxies: front.trusted_proxies: 'x' does not appear"),
    ],
)
def test_an_error_of_a_section_names_the_place(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configuration(**given).make(FrontSettings)
    assert str(caught.value).startswith(said)


def test_so_does_one_of_the_application() -> None:
    with pytest.raises(ConfigurationError, match=r"^f:worker__application: worker.application 'x': expected MODULE"):
        configuration(worker__application="x").make(WorkerSettings)


def test_what_nobody_gave_has_no_place() -> None:
    assert str(configuration().error("front.root_path: no")) == "front.root_path: no"
    assert str(configuration().error("nothing of that kind")) == "nothing of that kind"
    assert str(located("f:1", "no")) == "f:1: no"


def test_what_must_be_given() -> None:
    with pytest.raises(ConfigurationError, match=r"^an application is missing: .* IFSERVER_WORKER_APPLICATION$"):
        configuration().make(WorkerSettings)
    with pytest.raises(ConfigurationError, match=r"^a cluster is missing: .* IFSERVER_LAYER_CLUSTERS$"):
        configuration().layer({})


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("f:1", "f:1: listen.fd 9: Bad file descriptor"),
        ("IFSERVER_LISTEN_FD", "IFSERVER_LISTEN_FD: listen.fd 9: Bad file descriptor"),
        ("--fd", "--fd 9: Bad file descriptor"),
    ],
)
def test_an_error_may_also_name_a_flag(origin: str, said: str) -> None:
    found = Configuration({"listen.fd": Given((9,), origin)}).error("--fd 9: Bad file descriptor")
    assert str(found) == said


# Clusters.


def test_clusters_are_parsed_where_their_passwords_are_known() -> None:
    layer = Configuration({**CLUSTERS, "layer.home": Given("b", "f:9")}).layer({"IFSERVER_REDIS_PASSWORD": "geheim"})
    assert isinstance(layer, LayerSettings)
    assert [cluster.name for cluster in layer.clusters] == ["a", "b"]
    assert layer.home_cluster.name == "b"
    assert {node.password for cluster in layer.clusters for node in cluster.nodes} == {"geheim"}


def test_no_clusters() -> None:
    assert configuration().clusters({}) == ()


@pytest.mark.parametrize(
    ("origin", "said"),
    [
        ("f:2", "f:2: clusters: a: 'http://x': unknown scheme"),
        ("--cluster", "--cluster a: 'http://x': unknown scheme"),
    ],
)
def test_an_error_in_a_cluster_names_the_place(origin: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Configuration({"layer.clusters": Given((Given("a=http://x", origin),), origin)}).clusters({})
    assert str(caught.value).startswith(said)


def test_a_home_that_does_not_exist() -> None:
    with pytest.raises(ConfigurationError, match=r"^f:9: layer.home: no cluster is named 'c', there are: a, b$"):
        Configuration({**CLUSTERS, "layer.home": Given("c", "f:9")}).layer({})


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


def test_nothing_is_like_it() -> None:
    assert unknown("xyz", ["abc"]) == "xyz: unknown"
    assert unknown("front.frob", ["front.file_roots"]) == "front.frob: unknown", "what is alike is the section"
    assert unknown("x\nz", ["abc"]) == r"'x\nz': unknown", "errors fit one line"


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
