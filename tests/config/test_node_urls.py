"""The URLs of nodes: what they mean, what is refused, and that no password is ever told."""

from __future__ import annotations

from typing import Any

import pytest

from ifserver.config.node_urls import (
    ClusterSettings,
    NodeSettings,
    SentinelSettings,
    TlsSettings,
    parse_cluster,
    written,
)
from ifserver.errors import ConfigurationError


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
        ("redis://me:a,b@host", {"kind": "redis", "address": ("host", 6379), "username": "me", "password": "a,b"}),
        ("redis://:pw@host", {"kind": "redis", "address": ("host", 6379), "password": "pw"}),
        ("redis+unix:///run/r.sock", {"kind": "redis", "path": "/run/r.sock"}),
        ("redis+unix:///run/r.sock?db=2", {"kind": "redis", "path": "/run/r.sock", "database": 2}),
        ("redis+unix://:pw@/run/r", {"kind": "redis", "path": "/run/r", "password": "pw"}),
        ("redis+unix:///run/%40a%2Cb", {"kind": "redis", "path": "/run/@a,b"}),
        ("REDIS://HOST", {"kind": "redis", "address": ("host", 6379)}),
        ("redis://[fe80::1%eth0]", {"kind": "redis", "address": ("fe80::1%eth0", 6379)}),
        ("rediss://host/2", {"kind": "redis", "address": ("host", 6379), "database": 2, "tls": TlsSettings()}),
        (
            "rediss://:pw@host:7?ca=/etc/a%3Fb.pem&cert=c.pem&key=k.pem",
            {
                "kind": "redis",
                "address": ("host", 7),
                "password": "pw",
                "tls": TlsSettings(ca="/etc/a?b.pem", cert="c.pem", key="k.pem"),
            },
        ),
        (
            "redis+sentinel://s1/main",
            {"kind": "redis", "sentinel": SentinelSettings(service="main", addresses=(("s1", 26379),))},
        ),
        (
            "redis+sentinel://me:pw@s1,s2:7, [::1]:8/my.main/3?sentinel_username=u&sentinel_password=a%2Cb",
            {
                "kind": "redis",
                "username": "me",
                "password": "pw",
                "database": 3,
                "sentinel": SentinelSettings(
                    service="my.main",
                    addresses=(("s1", 26379), ("s2", 7), ("::1", 8)),
                    username="u",
                    password="a,b",
                ),
            },
        ),
        (
            "rediss+sentinel://s1,s2/main?ca=ca.pem",
            {
                "kind": "redis",
                "tls": TlsSettings(ca="ca.pem"),
                "sentinel": SentinelSettings(service="main", addresses=(("s1", 26379), ("s2", 26379))),
            },
        ),
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


def test_commas_separate_nodes_and_the_sentinels_of_one() -> None:
    parsed = parse_cluster("east=redis+sentinel://a,b:1,[::1]/x, rediss://c ,redis+sentinel://d/x/1,redis+unix:///e")
    assert [(node.name, node.where) for node in parsed.nodes] == [
        ("east-1", "a:26379,b:1,[::1]:26379/x"),
        ("east-2", "c:6379"),
        ("east-3", "d:26379/x"),
        ("east-4", "/e"),
    ]


ENVIRONMENT = {
    "IFSERVER_REDIS_USERNAME": "any",
    "IFSERVER_REDIS_PASSWORD": "for-all",
    "IFSERVER_REDIS_PASSWORD_EAST_2": "for-east-2",
    "IFSERVER_REDIS_USERNAME_EAST_3": "",
    "IFSERVER_REDIS_PASSWORD_EAST_3": "",
    "IFSERVER_REDIS_SENTINEL_PASSWORD": "of-sentinel",
}


def test_what_the_urls_do_not_hold_is_in_the_environment() -> None:
    urls = "redis://a,redis://b,redis://c,redis://me@d,redis://me:own@e,redis://:own@f,redis+unix:///g,local:h"
    nodes = parse_cluster(f"east={urls}", ENVIRONMENT).nodes
    assert [(node.username, node.password) for node in nodes] == [
        ("any", "for-all"),
        ("any", "for-east-2"),
        ("any", "for-all"),
        ("me", "for-all"),
        ("me", "own"),
        (None, "own"),
        ("any", "for-all"),
        (None, None),
    ]


def test_sentinel_has_a_password_of_its_own() -> None:
    [node] = parse_cluster("east=redis+sentinel://a/x", ENVIRONMENT).nodes
    assert node.sentinel is not None
    assert (node.password, node.sentinel.username, node.sentinel.password) == ("for-all", None, "of-sentinel")
    url = "east=redis+sentinel://a/x?sentinel_username=me&sentinel_password=own"
    [node] = parse_cluster(url, {"IFSERVER_REDIS_PASSWORD": "p"}).nodes
    assert node.sentinel is not None
    assert (node.password, node.sentinel.username, node.sentinel.password) == ("p", "me", "own")
    [node] = parse_cluster("east=redis+sentinel://a/x", {"IFSERVER_REDIS_PASSWORD": "p"}).nodes
    assert node.sentinel is not None
    assert node.sentinel.password is None


def test_a_variable_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_cluster("east=redis://a", {"IFSERVER_REDIS_PASSWORD": "geh\udce4im"})
    assert str(caught.value) == "IFSERVER_REDIS_PASSWORD: not UTF-8"


def test_nothing_is_asked_of_an_environment_that_was_not_given() -> None:
    [node] = parse_cluster("east=redis://a").nodes
    assert (node.username, node.password) == (None, None)


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
        ("a=redis://host?db=1", "--cluster a: 'redis://host': unknown option 'db' for redis://, there are: none"),
        ("a=rediss://h?verify=no", "--cluster a: 'rediss://h': unknown option 'verify' for rediss://, there are: ca, "),
        ("a=rediss://h?ca=", "--cluster a: 'rediss://h': option 'ca' has no value"),
        ("a=rediss://h?ca=a&ca=b", "--cluster a: 'rediss://h': option 'ca' is given twice"),
        ("a=rediss://h?cert=a", "--cluster a: 'rediss://h': a certificate and its key are given together"),
        ("a=redis://h1,h2", "--cluster a: 'redis://h1,h2': only a Sentinel URL has several hosts"),
        ("a=redis://x,", "--cluster a: 'redis://x,': only a Sentinel URL has several hosts"),
        ("a=redis://a:1:2", "--cluster a: 'redis://***': not a URL"),
        ("a=redis://me@host", "--cluster a: 'redis://***@host': a user without a password"),
        (
            "a=redis+sentinel://s1,s2",
            "--cluster a: 'redis+sentinel://s1,s2': expected redis+sentinel://HOST[,HOST...]/",
        ),
        ("a=redis+sentinel://s/a b", "--cluster a: 'redis+sentinel://s/a b': expected redis+sentinel://HOST"),
        ("a=redis+sentinel:///x", "--cluster a: 'redis+sentinel:///x': a host is missing"),
        ("a=redis+sentinel://s,/x", "--cluster a: 'redis+sentinel://s,/x': a host is missing"),
        ("a=redis+sentinel://s/x/y", "--cluster a: 'redis+sentinel://s/x/y': a database is a number"),
        ("a=redis+sentinel://s/x?ca=y", "--cluster a: 'redis+sentinel://s/x': unknown option 'ca'"),
        ("a=redis+sentinel://s/x?sentinel_username=y", "--cluster a: 'redis+sentinel://s/x': a user of Sentinel"),
        ("a=redis+unix://host/x", "--cluster a: 'redis+unix://host/x': expected redis+unix:///PATH"),
        ("a=redis+unix://", "--cluster a: 'redis+unix://': expected redis+unix:///PATH"),
        ("a=redis+unix:///r?x=1", "--cluster a: 'redis+unix:///r': unknown option 'x' for redis+unix://, there is: db"),
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
        "redis+unix://me:SECRET@/run/r?db=x",
        "redis://me:SECRET=x@host",
        "redis://me:SECRET=x",
        "a=redis://me:SECRET",
        "a=redis://me:SECRET?x",
        "a=me:SECRET",
        "a=redis://me:x,SECRET://y@host",
        "a=redis://me:SECRET,x://y@host",
        "a=redis+unix://me:x?SECRET@/run/r",
        "a=redis://me:a@SECRET?x@host",
        "a=redis+sentinel://s/x?sentinel_passwort=SECRET",
        "a=redis+sentinel://s/x?sentinel_password=SECRET&x=y",
        "a=redis+sentinel://s/x?sentinel_password=y@SECRET",
        "a=redis+sentinel://me:SECRET@s1,s2",
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
        ("rediss://:SECRET@[::1]/2", "east (rediss [::1]:6379)"),
        (
            "rediss+sentinel://:SECRET@a,b:1/x?sentinel_password=SECRET",
            "east (rediss+sentinel a:26379,b:1/x)",
        ),
        ("local:@b", "east (local @b)"),
    ],
)
def test_a_node_is_shown_without_its_password(url: str, text: str) -> None:
    cluster = parse_cluster(f"east={url}", {"IFSERVER_REDIS_PASSWORD": "SECRET"})
    assert str(cluster.nodes[0]) == text
    assert "SECRET" not in f"{cluster!r} {cluster.nodes[0].sentinel!r}"


def test_a_node_in_memory_says_where_it_is() -> None:
    assert str(NodeSettings(name="n", kind="memory")) == "n (memory this process)"


def test_an_address_is_written_as_in_a_url() -> None:
    assert [written(("a", 1)), written(("::1", 2))] == ["a:1", "[::1]:2"]
