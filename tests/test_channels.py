"""The grammar of channel names."""

from __future__ import annotations

import enum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifserver import channels
from ifserver.errors import ChannelNameError, IfserverError, UndecodableError
from ifserver.messages import decode_request, encode
from tests.worker.stage import http_request

REPLY = "!east-1.k3v9x2aq7m.1f"
INBOX = "!east-1.k3v9x2aq7m"

nodes = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


@pytest.mark.parametrize(
    "name",
    [
        channels.HTTP_REQUEST,
        channels.WEBSOCKET_CONNECT,
        "a",
        "a..b",
        "_x-",
        "x" * channels.MAX_LENGTH,
        INBOX,
        REPLY,
        "!n.0123456789." + "z" * (channels.MAX_LENGTH - 14),
    ],
)
def test_a_channel_name_is_returned_as_it_is(name: str) -> None:
    assert channels.check(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".a",
        "a b",
        "a\n",
        "ä",
        "a!",
        "a/b",
        "!",
        "!east",
        "!east.short",
        "!east.k3v9x2aq7mm",
        "!east.K3V9X2AQ7M",
        "!.k3v9x2aq7m",
        "!ea.st.k3v9x2aq7m",
        "!east.k3v9x2aq7m.",
        "!east.k3v9x2aq7m.1F",
        "!east.k3v9x2aq7m.1.2",
        "!!east.k3v9x2aq7m",
        "!east.k3v9x2aq7m\n",
    ],
)
def test_what_is_no_channel_name_is_named_in_the_error(name: str) -> None:
    with pytest.raises(ChannelNameError) as caught:
        channels.check(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 201, "!n.0123456789." + "z" * 187])
def test_a_name_that_is_too_long_is_told_by_its_length_and_not_quoted_whole(name: str) -> None:
    with pytest.raises(ChannelNameError, match="201 characters, at most 200") as caught:
        channels.check(name)
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("name", ["a", "east-1", "_", "X" * 64])
def test_a_node_name_is_returned_as_it_is(name: str) -> None:
    assert channels.check_node_name(name) == name


@pytest.mark.parametrize("name", ["", "a.b", "X" * 65, "a\n", "é", "!a", "a b"])
def test_what_is_no_node_name_is_refused(name: str) -> None:
    with pytest.raises(ChannelNameError, match="not a node name"):
        channels.check_node_name(name)


def test_a_bad_name_is_a_value_error_and_ours() -> None:
    assert issubclass(ChannelNameError, ValueError)
    assert issubclass(ChannelNameError, IfserverError)


@given(nodes, st.integers(0, 2**63))
def test_a_reply_channel_holds_its_node_its_process_and_its_stream(node: str, number: int) -> None:
    process = channels.new_process_name()
    inbox = channels.make_inbox(node, process)
    reply = channels.make_reply_channel(inbox, number)
    assert channels.check(inbox) == inbox
    assert channels.check(reply) == reply
    for name in (inbox, reply):
        assert channels.node_of(name) == node
        assert channels.process_of(name) == process
        assert channels.inbox_of(name) == inbox
        assert channels.is_inbox(name)
    assert channels.identity(reply) == f"{process}.{number:x}"
    assert channels.split(reply) == (node, inbox, channels.identity(reply))


@pytest.mark.parametrize("name", ["", "http.request", INBOX, f"{REPLY}.1", f"{REPLY}\n", REPLY + "1" * 200])
def test_only_the_reply_channel_of_a_stream_is_one(name: str) -> None:
    request = encode(http_request(reply_channel=name))
    with pytest.raises(UndecodableError):
        decode_request(request)


@pytest.mark.parametrize("name", ["", ".", "!", "!.", "a", "a.", ".b.", "!a\n.b", "http.request"])
def test_of_a_name_from_elsewhere_all_can_be_asked(name: str) -> None:
    """It may be any, where it has not been used yet."""
    for ask in (channels.node_of, channels.process_of, channels.inbox_of):
        assert ask(name) in name


def test_the_identity_stays_when_the_process_moves_to_another_node() -> None:
    assert channels.identity(REPLY) == channels.identity(REPLY.replace("east-1", "east-2")) == "k3v9x2aq7m.1f"


def test_a_request_channel_is_nobodys_inbox() -> None:
    assert not channels.is_inbox(channels.HTTP_REQUEST)


def test_no_two_processes_have_the_same_name() -> None:
    names = {channels.new_process_name() for _ in range(1000)}
    assert len(names) == 1000


@pytest.mark.parametrize("name", ["a", "chat.room-7", ".x", "_", "x" * 99])
def test_a_group_name_is_returned_as_it_is(name: str) -> None:
    assert channels.check_group(name) == channels.check_subject(name) == name


def test_a_group_name_may_be_that_of_an_enumeration() -> None:
    class Room(enum.StrEnum):
        LOBBY = "lobby"

    name = channels.check_group(Room.LOBBY)
    assert (name, type(name)) == ("lobby", str)


@pytest.mark.parametrize("name", ["", "!a", "a b", "a\n", "ä", "a:b", "a*", "x" * 100])
def test_what_is_no_group_name_is_refused(name: str) -> None:
    with pytest.raises(ChannelNameError):
        channels.check_group(name)


@pytest.mark.parametrize("name", ["!a", REPLY, INBOX, "x" * 200])
def test_nodes_carry_groups_that_users_may_not_name(name: str) -> None:
    assert channels.check_subject(name) == name


@pytest.mark.parametrize("name", ["", "!", "!!a", "a!", "a b", "a\n", "ä", "a:b", "a*", "x" * 201])
def test_what_nodes_do_not_carry_is_refused(name: str) -> None:
    with pytest.raises(ChannelNameError):
        channels.check_subject(name)
