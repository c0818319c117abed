"""Networks: which addresses they have, however these are written."""

from __future__ import annotations

import pytest

from ifserver.config.networks import Networks, address_text, parse_networks, plain_address
from ifserver.errors import ConfigurationError

NETWORKS = parse_networks(["10.0.0.0/8", "::1", "1.2.3.4", "fe80::/10"], "x")


def test_networks() -> None:
    assert [str(each) for each in NETWORKS] == ["10.0.0.0/8", "::1/128", "1.2.3.4/32", "fe80::/10"]
    assert NETWORKS
    assert not Networks()
    assert not parse_networks([], "x")


def test_no_network() -> None:
    with pytest.raises(ConfigurationError, match=r"^x: 'all' does not appear to be"):
        parse_networks(["::1", "all"], "x")


@pytest.mark.parametrize(
    ("network", "is_"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:1.2.3.4", "1.2.3.4/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::ffff:0:0/95", ""),
        ("::/0", "::/0"),
        ("::1.2.3.4", "::102:304/128"),
    ],
)
def test_a_network_of_ipv4_may_be_written_as_ipv6(network: str, is_: str) -> None:
    if not is_:
        with pytest.raises(ConfigurationError):
            parse_networks([network], "x")
        return
    networks = parse_networks([network], "x")
    assert [str(each) for each in networks] == [is_]
    host = is_.partition("/")[0]
    assert host in networks
    if ":" not in host:
        assert "::ffff:" + host in networks


@pytest.mark.parametrize(
    ("host", "there"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("1.2.3.4", True),
        ("1.2.3.5", False),
        ("::1", True),
        ("0:0:0:0:0:0:0:1", True),
        ("::2", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
        ("fe80::1%eth0", True),
        ("", False),
        ("localhost", False),
        ("10.1.2.3.4", False),
    ],
)
def test_whether_they_have_an_address(host: str, there: bool) -> None:
    assert (host in NETWORKS) is there
    assert (host in NETWORKS) is there, "also when it is asked for again"


def test_what_is_too_long_for_an_address_is_not_even_remembered() -> None:
    networks = parse_networks(["fe80::/10"], "x")
    assert "fe80::1%" + "x" * 92 in networks
    assert "fe80::1%" + "x" * 93 not in networks
    assert networks._remembered.cache_info().currsize == 1


def test_what_is_remembered_is_bounded() -> None:
    networks = parse_networks(["10.0.0.0/8"], "x")
    for i in range(5000):
        assert f"10.0.{i // 250}.{i % 250}" in networks
    assert networks._remembered.cache_info().currsize == 4096


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ("::FFFF:c000:201", "::ffff:192.0.2.1"),
        ("::192.0.2.1", "::c000:201"),
    ],
)
def test_an_address_is_written_in_one_way(text: str, written: str) -> None:
    assert address_text(plain_address(text)) == written


@pytest.mark.parametrize("text", ["fe80::1%eth0", "fe80::1%x\nforged", "::ffff:192.0.2.1%1", "192.0.2.1%x", "", "x"])
def test_an_address_with_a_zone_is_none_of_another_host(text: str) -> None:
    with pytest.raises(ValueError, match="zone" if "%" in text else "does not appear"):
        plain_address(text)
