"""Which stream a message is about."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from ifserver import channels
from ifserver.front.exchanges.registry import Registry

INBOX = "!east-1.k3v9x2aq7m"


@dataclass
class FakeStream:
    identity: str


@dataclass(eq=False)
class FakeExchange:
    """As much of an exchange as a registry looks at."""

    channel: str
    stream: FakeStream = field(init=False)

    def __post_init__(self) -> None:
        self.stream = FakeStream(channels.identity(self.channel))


@pytest.fixture
def registry() -> Registry[FakeExchange]:
    return Registry(INBOX)


def enter(registry: Registry[FakeExchange]) -> FakeExchange:
    exchange = FakeExchange(registry.new_channel())
    registry[exchange.stream.identity] = exchange
    return exchange


def test_reply_channels_are_counted_and_go_home(registry: Registry[FakeExchange]) -> None:
    made = [registry.new_channel() for _ in range(17)]
    assert made[0] == f"{INBOX}.1"
    assert made[-1] == f"{INBOX}.11"
    assert len(set(made)) == len(made)
    for channel in made:
        assert channels.check(channel) == channel
        assert channels.inbox_of(channel) == INBOX


def test_an_exchange_is_found_by_the_identity_of_its_stream(registry: Registry[FakeExchange]) -> None:
    one, other = enter(registry), enter(registry)
    assert registry.get(one.stream.identity) is one
    assert registry.get("k3v9x2aq7m.2") is other
    assert registry.get("k3v9x2aq7m.3") is None
    assert len(registry) == 2
    assert registry.all() == [one, other]


def test_one_that_has_ended_is_nobodys_and_its_channel_is_not_used_again(registry: Registry[FakeExchange]) -> None:
    exchange = enter(registry)
    registry.pop(exchange.stream.identity, None)
    registry.pop(exchange.stream.identity, None)
    assert registry.get(exchange.stream.identity) is None
    assert len(registry) == 0
    assert registry.new_channel() != exchange.channel


def test_all_may_be_walked_while_they_end(registry: Registry[FakeExchange]) -> None:
    entered = [enter(registry) for _ in range(3)]
    for exchange in registry.all():
        registry.pop(exchange.stream.identity)
    assert registry.all() == []
    assert len(entered) == 3
