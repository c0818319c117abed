"""What is remembered of the lists of a Redis."""

from __future__ import annotations

import hiredis
import pytest

from ifserver.errors import ChannelNameError
from ifserver.layers.node import Limits
from ifserver.layers.redis import keys
from ifserver.layers.redis.keys import Keys
from tests.layers.helpers import INBOX

REQUESTS, INBOXES = Limits(100, 30.0), Limits(1000, 0.0001)


def make_keys() -> Keys:
    made = Keys(lambda channel: INBOXES if channel.startswith("!") else REQUESTS)
    made.prefix = b"p:epoch:"
    return made


def test_a_new_channel_is_as_good_as_full() -> None:
    key = make_keys()["r"]
    assert (key.key, key.capacity, key.plain, key.length, key.flying) == (b"p:epoch:r", 100, 75, 100, 0)
    assert (key.expiry_ms, key.renew_s, key.renew_at) == (30_000, 10.0, 0.0)
    assert key.pexpire == hiredis.pack_command((b"PEXPIRE", b"p:epoch:r", 30_000))


def test_each_kind_of_channel_has_its_limits_and_nothing_expires_at_once() -> None:
    key = make_keys()[INBOX]
    assert (key.capacity, key.expiry_ms) == (1000, 1)


def test_a_channel_is_looked_up_once() -> None:
    known = make_keys()
    assert known["r"] is known["r"]


def test_what_is_no_channel_is_not_remembered() -> None:
    known = make_keys()
    with pytest.raises(ChannelNameError):
        known["no channel"]
    assert known == {}


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_MAX_KEYS", 2)
    known = make_keys()
    for name in ("a", "b", "c"):
        known[name]
    assert list(known) == ["b", "c"]
