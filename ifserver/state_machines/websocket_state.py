"""The states of a WebSocket, seen from the interface server.

::

    QUEUED ----claim----> CLAIMED ----accept----> OPEN ----close, from either side----> DONE
      |                      |
      |                      '-----response-----> DENYING ----last byte----> DONE
      '----accept or response, which claim as well---->'

    OPEN ----the client breaks the protocol----> FAILING ----the application knows----> CLOSING

    OPEN ----its worker is gone----> WAITING ----claim----> TAKEN ----accept----> OPEN
                                      |  ^                    |
                                      |  '----worker lost-----'
                                      '----the client leaves--'----> LEFT ----accept----> DONE
"""

from __future__ import annotations

import enum

__all__ = ["State"]


class State(enum.Enum):
    """Where a WebSocket is."""

    # Members are keys of tables, and the hash that an Enum brings along is written in Python.
    __hash__ = object.__hash__

    #: As for HTTP; the client's handshake is not answered yet.
    QUEUED = enum.auto()
    WITHDRAWING = enum.auto()
    CLAIMED = enum.auto()
    #: The application answers the handshake with an HTTP response of its own (ASGI ``websocket.http.response``).
    DENYING = enum.auto()
    #: ``101`` has been sent; frames go both ways.
    OPEN = enum.auto()
    #: The WebSocket is open and resumable, and its worker is gone: it waits for the next one (`websocket_resumption`).
    WAITING = enum.auto()
    #: The next worker has it, and has not accepted it yet.
    TAKEN = enum.auto()
    #: The client has left while its WebSocket had no worker, and something that it had sent is still held.
    LEFT = enum.auto()
    #: The client has broken the protocol, and our close frame is held back: what the application says before it learns
    #: of that is still sent, so that no answer to an earlier message is lost.
    FAILING = enum.auto()
    #: Our close frame has been sent, the client's answer is awaited (RFC 6455 7.1.2).
    CLOSING = enum.auto()
    #: Nothing more will happen to the client.
    DONE = enum.auto()
