"""What clients may ask in the handshake of a WebSocket (RFC 6455 4.2.1)."""

from __future__ import annotations

import base64

import pytest

from ifserver.front.http1.parser import is_websocket_upgrade
from ifserver.front.incoming_request import Incoming
from ifserver.front.websocket.opening import websocket_problem

KEY = (b"sec-websocket-key", base64.b64encode(bytes(16)))
VERSION = (b"sec-websocket-version", b"13")
UPGRADE = (b"upgrade", b"websocket")


def handshake(
    *headers: tuple[bytes, bytes], method: str = "GET", version: str = "1.1", upgrade: bool = True
) -> Incoming:
    incoming = Incoming(method, b"/", version, list(headers), True)
    incoming.upgrade = upgrade
    return incoming


@pytest.mark.parametrize(
    ("incoming", "asks"),
    [
        (handshake(UPGRADE), True),
        (handshake((b"upgrade", b"h2c, WebSocket")), True),
        (handshake((b"upgrade", b"h2c"), UPGRADE), True),
        (handshake((b"upgrade", b"websocket2")), False),
        (handshake((b"upgrade", b"h2c")), False),
        (handshake(), False),
        (handshake(UPGRADE, method="POST"), False),
        # Without "Connection: upgrade" the parser does not say so.
        (handshake(UPGRADE, upgrade=False), False),
    ],
)
def test_who_asks_for_a_websocket(incoming: Incoming, asks: bool) -> None:
    assert is_websocket_upgrade(incoming) is asks


def test_a_right_handshake_has_no_problem() -> None:
    assert websocket_problem(handshake(UPGRADE, VERSION, KEY)) is None


@pytest.mark.parametrize(
    ("incoming", "status"),
    [
        (handshake(UPGRADE, KEY), 426),
        (handshake(UPGRADE, (b"sec-websocket-version", b"8"), KEY), 426),
        (handshake(UPGRADE, VERSION), 400),
        (handshake(UPGRADE, VERSION, KEY, KEY), 400),
        (handshake(UPGRADE, VERSION, (b"sec-websocket-key", b"")), 400),
        (handshake(UPGRADE, VERSION, (b"sec-websocket-key", base64.b64encode(bytes(15)))), 400),
        (handshake(UPGRADE, VERSION, (b"sec-websocket-key", b"A" * 23)), 400),
        (handshake(UPGRADE, VERSION, (b"sec-websocket-key", KEY[1] + b"\xff")), 400),
    ],
)
def test_what_is_wrong_with_a_handshake(incoming: Incoming, status: int) -> None:
    problem = websocket_problem(incoming)
    assert problem is not None
    assert problem[0] == status
