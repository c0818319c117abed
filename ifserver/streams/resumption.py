"""What a WebSocket needs to outlive its worker: the client's messages that a worker has, and may not have consumed."""

from __future__ import annotations

from collections import deque

from ifserver.streams.effects import MessageReceived

__all__ = ["HandedOut"]


class HandedOut:
    """The messages of one client that its present worker was handed and is not known to have consumed.

    The window bounds them. Totals are units of `ifserver.streams.window`.
    """

    __slots__ = ("_messages",)

    def __init__(self) -> None:
        self._messages: deque[tuple[int, MessageReceived]] = deque()

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, total: int, message: MessageReceived) -> None:
        """`message` was handed out; `total` units of this attempt were, with it."""
        self._messages.append((total, message))

    def confirm(self, consumed: int) -> None:
        """The worker has consumed `consumed` units in all."""
        messages = self._messages
        while messages and messages[0][0] <= consumed:
            messages.popleft()

    def take(self) -> list[MessageReceived]:
        """Those that are left, oldest first; none are left then."""
        messages = [message for _, message in self._messages]
        self._messages.clear()
        return messages
