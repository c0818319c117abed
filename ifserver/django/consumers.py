"""What consumers can do with the messages that interface servers write for them, where no such server does."""

from __future__ import annotations

from typing import Any

from channels.exceptions import StopConsumer

__all__ = ["GroupSendMixin"]


class GroupSendMixin:
    """Lets a consumer do what interface servers do with ``websocket.send``, ``websocket.close`` and
    ``http.response.body`` that are sent to its groups.

    With ifserver's channel layer the interface server writes these, and the consumer is not called. With this mixin the
    same consumer also works on any other channel layer, in tests for example::

        class ChatConsumer(GroupSendMixin, AsyncWebsocketConsumer): ...

    It goes with sync and async consumers.
    """

    scope: dict[str, Any]
    base_send: Any

    # Each returns a coroutine to those who await their handlers. Sync consumers have sent it then.

    def websocket_send(self, event: dict[str, Any]) -> Any:
        """Send a message to the client of a WebSocket; a piece of the body in a response."""
        if self.scope["type"] == "http":
            text = event.get("text")
            return self._send_body(event["bytes"] if text is None else text.encode(), True)
        return self.base_send(event)

    def websocket_close(self, event: dict[str, Any]) -> Any:
        """Close a WebSocket; cut a response."""
        if self.scope["type"] == "http":
            raise StopConsumer
        return self.base_send(event)

    def http_response_body(self, event: dict[str, Any]) -> Any:
        """Send a piece of a response's body, which goes on unless the event says ``more_body: False``; a message in
        bytes to the client of a WebSocket."""
        body = event.get("body", b"")
        if self.scope["type"] == "websocket":
            return self.base_send({"type": "websocket.send", "bytes": body})
        return self._send_body(body, event.get("more_body", True))

    def _send_body(self, body: bytes, more_body: bool) -> Any:
        return self.base_send({"type": "http.response.body", "body": body, "more_body": more_body})
