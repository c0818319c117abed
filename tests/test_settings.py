"""Settings are checked when they are made, and an error names the setting and its value."""

from __future__ import annotations

from typing import Any

import pytest

from ifserver.errors import ConfigurationError
from ifserver.settings import (
    ClusterSettings,
    FrontSettings,
    LayerSettings,
    NodeSettings,
    WorkerSettings,
    parse_application,
    parse_cluster,
    parse_networks,
)


def cluster(name: str, *nodes: str) -> ClusterSettings:
    return ClusterSettings(name=name, nodes=tuple(NodeSettings(name=node, kind="memory") for node in nodes or (name,)))


def layer(**settings: Any) -> LayerSettings:
    return LayerSettings(**{"clusters": (cluster("east"),), **settings})


def worker(**settings: Any) -> WorkerSettings:
    return WorkerSettings(**{"application": "a:b", **settings})


@pytest.mark.parametrize("make", [FrontSettings, layer, worker])
def test_the_defaults_are_allowed_and_every_least_value_is_too(make: Any) -> None:
    settings = make()
    least = settings._least()
    assert least
    made = make(**least)
    assert {name: getattr(made, name) for name in least} == least


@pytest.mark.parametrize(
    ("make", "name"), [(make, name) for make in (FrontSettings, layer, worker) for name in make()._least()]
)
def test_less_than_the_least_value_is_refused_by_name(make: Any, name: str) -> None:
    least = make()._least()[name]
    for value in (least - 1, float("nan")):
        with pytest.raises(ConfigurationError) as caught:
            make(**{name: value})
        path = {FrontSettings: "front", layer: "layer", worker: "worker"}[make]
        assert str(caught.value) == f"{path}.{name}: must be at least {least}, got {value}"


@pytest.mark.parametrize("make", [FrontSettings, layer, worker])
def test_every_number_has_a_least_value(make: Any) -> None:
    settings = make()
    numbers = {
        name
        for name in settings.__struct_fields__
        if isinstance(getattr(settings, name), int | float) and not isinstance(getattr(settings, name), bool)
    }
    assert numbers <= set(settings._least())


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
        ({"root_path": "app"}, "front.root_path: must begin with '/', got 'app'"),
        ({"server_header": ""}, "front.server_header: not a header value: ''"),
        ({"server_header": "a\r\nb: c"}, r"front.server_header: not a header value: 'a\r\nb: c'"),
        ({"server_header": "ä"}, "front.server_header: not a header value: 'ä'"),
        ({"server_header": " a"}, "front.server_header: not a header value: ' a'"),
        ({"trusted_proxies": ("::1", "10.0.0.1/8")}, "front.trusted_proxies: 10.0.0.1/8 has host bits set"),
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


@pytest.mark.parametrize(
    ("text", "parts"),
    [("a:b", ("a", "b")), ("my.site.asgi:make.app", ("my.site.asgi", "make.app")), ("_a1:ä", ("_a1", "ä"))],
)
def test_an_application(text: str, parts: tuple[str, str]) -> None:
    assert parse_application(text) == parts
    assert worker(application=text).application == text


@pytest.mark.parametrize(
    "text", ["", "a", ":", "a:", ":b", "a.:b", ".a:b", "a:b:c", "a-b:c", "a:b()", "a/b.py:c", "1:a"]
)
def test_no_application(text: str) -> None:
    for parse in (parse_application, lambda text: worker(application=text)):
        with pytest.raises(ConfigurationError) as caught:
            parse(text)
        assert str(caught.value).startswith(f"application {text!r}: expected MODULE:ATTRIBUTE")


def test_networks() -> None:
    assert [str(each) for each in parse_networks(["10.0.0.0/8", "::1", "1.2.3.4"], "x")] == [
        "10.0.0.0/8",
        "::1/128",
        "1.2.3.4/32",
    ]


def test_no_network() -> None:
    with pytest.raises(ConfigurationError, match=r"^x: 'all' does not appear to be"):
        parse_networks(["::1", "all"], "x")


@pytest.mark.parametrize(
    ("url", "node"),
    [
        ("redis://host", {"kind": "redis", "address": ("host", 6379)}),
        ("redis://host/", {"kind": "redis", "address": ("host", 6379)}),
        ("redis://[::1]:7000/3", {"kind": "redis", "address": ("::1", 7000), "database": 3}),
        (
            "redis://me:a%40%2F%3Ab@host:1",
            {"kind": "redis", "address": ("host", 1), "username": "me", "password": "a@/:b"},
        ),
        ("redis://:pw@host", {"kind": "redis", "address": ("host", 6379), "password": "pw"}),
        ("redis+unix:///run/r.sock", {"kind": "redis", "path": "/run/r.sock"}),
        ("redis+unix:///run/r.sock?db=2", {"kind": "redis", "path": "/run/r.sock", "database": 2}),
        ("redis+unix://:pw@/run/r", {"kind": "redis", "path": "/run/r", "password": "pw"}),
        ("local:/run/b.sock", {"kind": "local", "path": "/run/b.sock"}),
        ("local:@abstract", {"kind": "local", "path": "@abstract"}),
        ("local:below/here", {"kind": "local", "path": "below/here"}),
    ],
)
def test_a_cluster_of_one_node(url: str, node: dict[str, Any]) -> None:
    assert parse_cluster(f"east={url}") == ClusterSettings(name="east", nodes=(NodeSettings(name="east", **node),))


def test_the_nodes_of_a_list_are_counted() -> None:
    parsed = parse_cluster("east=redis://a, redis://b,local:c")
    assert [(node.name, node.kind) for node in parsed.nodes] == [
        ("east-1", "redis"),
        ("east-2", "redis"),
        ("east-3", "local"),
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("redis://host", "--cluster 'redis://host': expected NAME=URL[,URL...]"),
        ("a.b=redis://host", "--cluster: not a node name: 'a.b'"),
        ("=redis://host", "--cluster: not a node name: ''"),
        ("a=", "--cluster a: '': unknown scheme ''"),
        ("a=http://host", "--cluster a: 'http://host': unknown scheme 'http'"),
        ("a=redis://", "--cluster a: 'redis://': a host is missing"),
        ("a=redis://host:99999", "--cluster a: 'redis://host:99999': not a URL"),
        ("a=redis://[::1", "--cluster a: 'redis://[::1': not a URL"),
        ("a=redis://host/x", "--cluster a: 'redis://host/x': a database is a number"),
        ("a=redis://host/²", "--cluster a: 'redis://host/²': a database is a number"),
        ("a=redis://host?db=1", "--cluster a: 'redis://host?db=1': nothing may follow"),
        ("a=redis+unix://", "--cluster a: 'redis+unix://': expected redis+unix:///PATH"),
        ("a=redis+unix:///r?x=1", "--cluster a: 'redis+unix:///r?x=1': unknown option 'x', there is: db"),
        ("a=local:", "--cluster a: 'local:': expected local:PATH"),
        ("a=redis://x,local:", "--cluster a-2: 'local:': expected local:PATH"),
    ],
)
def test_what_is_no_cluster(text: str, error: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_cluster(text)
    assert str(caught.value).startswith(error)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "redis://me:SECRET@host",
        "a=http://me:SECRET@host",
        "a=redis://me:SECRET@host:port",
        "a=redis://me:SECRET@host/x",
        "a=redis://me:SECRET@host/1?x",
        "a=redis://me:SECRET/@host",
        "a=redis://me:SE/SECRET@host",
        "a=redis://me:1/SECRET@host",
        "a=redis://me:SECRET#x@host",
        "a=redis://me:SECRET?x@host",
        "a=redis://me:@SECRET@host:port",
        "a=me:SECRET@host",
        "a=redis+unix://me:SECRET@/run/r?db=x",
    ],
)
def test_no_error_tells_a_password(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_cluster(text)
    error: BaseException | None = caught.value
    while error is not None:
        assert "SECRET" not in str(error)
        error = error.__cause__


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://me:SECRET@host:1", "east (redis host:1)"),
        ("redis+unix://:SECRET@/run/r", "east (redis /run/r)"),
        ("local:@b", "east (local @b)"),
    ],
)
def test_a_node_is_shown_without_its_password(url: str, text: str) -> None:
    assert str(parse_cluster(f"east={url}").nodes[0]) == text


def test_a_node_in_memory_says_where_it_is() -> None:
    assert str(NodeSettings(name="n", kind="memory")) == "n (memory this process)"
