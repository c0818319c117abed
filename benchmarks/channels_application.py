"""A room of Django Channels, and nothing else: what `benchmarks.application` does with groups of a server."""

from __future__ import annotations

import os
from typing import Any

import django
from django.conf import settings

_LAYER = os.environ["CHANNEL_LAYER"]
_REDIS = os.environ.get("CHANNEL_REDIS")

settings.configure(
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="no secret",
    CHANNEL_LAYERS={
        "default": {"BACKEND": _LAYER, "CONFIG": {"capacity": 10_000, **({"hosts": [_REDIS]} if _REDIS else {})}}
    },
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.layers import get_channel_layer  # noqa: E402

from benchmarks.application import HELLO, NEWS, PLAIN  # noqa: E402

__all__ = ["app"]


class Room(AsyncWebsocketConsumer):  # type: ignore[misc]  # Channels has no types
    """A member of the room."""

    async def connect(self) -> None:
        """Join it."""
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()

    async def disconnect(self, code: int) -> None:
        """Leave it."""
        await self.channel_layer.group_discard("room", self.channel_name)

    async def news(self, event: dict[str, Any]) -> None:
        """Pass on what was sent to the room."""
        await self.send(text_data=event["text"])


_room = Room.as_asgi()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """``/``; the room over WebSocket; and ``/news``, which sends 100 bytes to it."""
    if scope["type"] == "websocket":
        await _room(scope, receive, send)
    elif scope["type"] == "http":
        if scope["path"] == "/news":
            await get_channel_layer().group_send("room", {"type": "news", "text": NEWS})
        headers = [PLAIN, (b"content-length", b"%d" % len(HELLO))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": HELLO})
    else:
        while (await receive())["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
