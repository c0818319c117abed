"""Settings are checked when they are made, and an error names the setting and its value."""

from __future__ import annotations

from typing import Any

import pytest

from ifserver.config.node_urls import ClusterSettings, NodeSettings
from ifserver.config.schema import Kind, Setting, settings_of
from ifserver.config.settings import FrontSettings, LayerSettings, ListenSettings, LogSettings, WorkerSettings
from ifserver.errors import ConfigurationError


def cluster(name: str, *nodes: str) -> ClusterSettings:
    return ClusterSettings(name=name, nodes=tuple(NodeSettings(name=node, kind="memory") for node in nodes or (name,)))


def layer(**settings: Any) -> LayerSettings:
    return LayerSettings(**{"clusters": (cluster("east"),), **settings})


def worker(**settings: Any) -> WorkerSettings:
    return WorkerSettings(**{"application": "a:b", **settings})


#: Every struct with settings, and how one is made with no more than it needs.
MAKES = [(ListenSettings, ListenSettings), (FrontSettings, FrontSettings), (LayerSettings, layer),
         (WorkerSettings, worker), (LogSettings, LogSettings)]  # fmt: skip
BOUNDED = [(make, setting) for struct, make in MAKES for setting in settings_of(struct).values()]


@pytest.mark.parametrize(("struct", "make"), MAKES)
def test_the_defaults_are_allowed_and_every_least_value_is_too(struct: Any, make: Any) -> None:
    least = {name: setting.least for name, setting in settings_of(struct).items() if setting.least is not None}
    made = make(**least)
    assert {name: getattr(made, name) for name in least} == least


@pytest.mark.parametrize(("make", "setting"), [each for each in BOUNDED if each[1].least is not None])
def test_less_than_the_least_value_is_refused_by_name(make: Any, setting: Setting) -> None:
    assert setting.least is not None
    for value in (setting.least - 1, float("nan")):
        with pytest.raises(ConfigurationError) as caught:
            make(**{setting.name: value})
        assert str(caught.value) == f"{setting.path}: must be at least {setting.least}, got {value}"


@pytest.mark.parametrize(("make", "setting"), [each for each in BOUNDED if each[1].choices])
def test_only_the_choices_can_be_chosen(make: Any, setting: Setting) -> None:
    for choice in setting.choices:
        assert getattr(make(**{setting.name: choice}), setting.name) == choice
    with pytest.raises(ConfigurationError, match=rf"^{setting.path}: must be .* or {setting.choices[-1]}, got 'x'$"):
        make(**{setting.name: "x"})


@pytest.mark.parametrize(("make", "setting"), BOUNDED)
def test_every_number_has_a_least_value_or_choices(make: Any, setting: Setting) -> None:
    if setting.kind in (Kind.NUMBER, Kind.DURATION, Kind.SIZE):
        assert setting.least is not None or setting.choices


@pytest.mark.parametrize("struct", [struct for struct, _ in MAKES])
def test_every_setting_is_described(struct: Any) -> None:
    """What is not described would be in no file and have no flag."""
    settings = settings_of(struct)
    assert tuple(settings) == struct.__struct_fields__
    for setting in settings.values():
        assert setting.doc.endswith(".")
        assert "`" not in setting.doc, "it is read in a terminal"


def test_settings_of_one_name_are_of_one_kind() -> None:
    """Since one flag can mean them all."""
    kinds: dict[str, set[Any]] = {}
    for _, setting in BOUNDED:
        kinds.setdefault(setting.name, set()).add((setting.kind, setting.optional, setting.whole))
    assert {name: found for name, found in kinds.items() if len(found) > 1} == {}


def test_a_port_is_below_65536() -> None:
    assert ListenSettings(port=65_535).port == 65_535
    with pytest.raises(ConfigurationError, match=r"^listen.port: must be at most 65535, got 65536$"):
        ListenSettings(port=65_536)


@pytest.mark.parametrize("name", ["max_websocket_message_bytes", "whole_body_bytes"])
def test_what_clients_send_in_one_piece_is_no_more_than_a_node_carries(name: str) -> None:
    most = 64 * 1024 * 1024
    FrontSettings(**{name: most})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=rf"^front.{name}: must be at most {most}, got {most + 1}$"):
        FrontSettings(**{name: most + 1})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "tcp"),
    [
        ({}, ("127.0.0.1", 8000)),
        ({"port": 0}, ("127.0.0.1", 0)),
        ({"host": "::1"}, ("::1", 8000)),
        ({"unix": "/x"}, None),
        ({"fd": (3,)}, None),
        ({"endpoints": ("tcp:1",)}, None),
        ({"unix": "/x", "port": 1}, ("127.0.0.1", 1)),
    ],
)
def test_the_default_address_is_for_who_says_nothing_else(settings: Any, tcp: tuple[str, int] | None) -> None:
    assert ListenSettings(**settings).tcp == tcp


@pytest.mark.parametrize("name", ["websocket_timeout_s", "max_body_bytes"])
def test_none_is_no_limit(name: str) -> None:
    assert getattr(FrontSettings(**{name: None}), name) is None


def test_settings_are_frozen_and_know_their_names() -> None:
    with pytest.raises(AttributeError):
        FrontSettings().max_headers = 1  # type: ignore[misc]
    with pytest.raises(TypeError, match="max_header"):
        FrontSettings(max_header=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"root_path": "app"}, "front.root_path: 'app': must begin with '/'"),
        ({"server_header": ""}, "front.server_header: '': not a header's value"),
        ({"server_header": "a\r\nb: c"}, r"front.server_header: 'a\r\nb: c': not a header's value"),
        ({"server_header": "ä"}, "front.server_header: 'ä': not a header's value"),
        ({"server_header": " a"}, "front.server_header: ' a': not a header's value"),
        ({"trusted_proxies": ("::1", "10.0.0.1/8")}, "front.trusted_proxies: '10.0.0.1/8': has host bits set"),
    ],
)
def test_what_the_front_cannot_be(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        FrontSettings(**settings)
    assert str(caught.value) == error


@pytest.mark.parametrize("server_header", [None, "x", "ifserver", "a b/1.0 (c)"])
def test_a_server_header_that_can_be_sent(server_header: str | None) -> None:
    assert FrontSettings(server_header=server_header).server_header == server_header


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"clusters": ()}, "layer.clusters: at least one cluster is needed"),
        ({"clusters": (cluster("a"), cluster("a", "b"))}, "layer.clusters: cluster 'a' is given twice"),
        ({"clusters": (cluster("a", "n"), cluster("b", "n"))}, "layer.clusters: two nodes are named 'n'"),
        ({"home": "west"}, "layer.home: no cluster is named 'west', there are: east"),
    ],
)
def test_what_the_layer_cannot_be(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        layer(**settings)
    assert str(caught.value) == error


def test_home_is_the_first_cluster_or_the_one_that_is_named() -> None:
    clusters = (cluster("a"), cluster("b"))
    assert layer(clusters=clusters).home_cluster is clusters[0]
    assert layer(clusters=clusters, home="b").home_cluster is clusters[1]


def test_what_is_no_application_is_refused() -> None:
    assert worker(application="my.site:app").application == "my.site:app"
    with pytest.raises(ConfigurationError, match=r"^worker\.application: 'a': expected MODULE:ATTRIBUTE"):
        worker(application="a")


def test_what_is_no_address_is_refused() -> None:
    assert FrontSettings(admin="[::1]:0").admin == "[::1]:0"
    with pytest.raises(ConfigurationError, match=r"^front\.admin: '9100': expected HOST:PORT"):
        FrontSettings(admin="9100")
    with pytest.raises(ConfigurationError, match=r"^worker\.admin: '9100': expected HOST:PORT"):
        worker(admin="9100")


def test_patterns_of_paths_that_fit_nothing_are_refused() -> None:
    assert FrontSettings(resumable_paths=("/ws/*", "*/ws")).resumable_paths == ("/ws/*", "*/ws")
    said = r"^front\.resumable_paths: 'ws/\*': expected a pattern of paths, which begins with / or \*"
    with pytest.raises(ConfigurationError, match=said):
        FrontSettings(resumable_paths=("/a", "ws/*"))


def test_what_is_no_origin_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^front\.allowed_origins: '\*': expected SCHEME://HOST"):
        FrontSettings(allowed_origins=("*",))
