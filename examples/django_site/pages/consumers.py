"""The chat room: its WebSockets, with Channels, and what the site itself says there.

The page and its messages are those of the example ``chat``, which is next door.
"""

import json
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from chat.app import HISTORY_MESSAGES, POLICY_VIOLATION, parse

from ifserver.groups import publish
from pages.models import ChatMessage

ROOM = "site-chat"


class ChatConsumer(AsyncWebsocketConsumer):
    groups = [ROOM]  # it is a member before connect()

    async def connect(self) -> None:
        await self.accept()
        await self.send(text_data=json.dumps(await history()))

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            said = parse(text_data or "")
        except ValueError:
            await self.close(POLICY_VIOLATION)
            return
        message = await store(*said)
        # It is the same for everybody, so the servers write it to the clients, and no consumer is called.
        await self.channel_layer.group_send(ROOM, {"type": "websocket.send", "text": json.dumps(message)})


def announce(text: str) -> None:
    """Say something in the room, from any code that may block."""
    publish(ROOM, json=ChatMessage.objects.create(name="The site", text=text).as_dict())


@database_sync_to_async
def history() -> list[dict[str, Any]]:
    return [message.as_dict() for message in ChatMessage.objects.order_by("-id")[:HISTORY_MESSAGES]][::-1]


@database_sync_to_async
def store(name: str, text: str, key: str | None) -> dict[str, Any]:
    """Put a message into the database, unless one with its key is there: the page sends some of them twice."""
    words = {"name": name, "text": text}
    if key is None:
        return ChatMessage.objects.create(**words).as_dict()
    return ChatMessage.objects.get_or_create(key=key, defaults=words)[0].as_dict()
