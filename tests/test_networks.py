"""Networks: which addresses they have, however these are written."""

from __future__ import annotations

import pytest

from ifserver.errors import ConfigurationError
from ifserver.networks import Networks, parse_networks

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
