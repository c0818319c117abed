"""The consumers of Channels' tutorial (parts 2 and 3), and some that use what the tutorial does not."""

import json
import os

from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer
from channels.generic.http import AsyncHttpConsumer
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer


class ChatConsumer(AsyncWebsocketConsumer):
    async def connect(self):
        self.room_name = self.scope["url_route"]["kwargs"]["room_name"]
        self.room_group_name = f"chat_{self.room_name}"

        # Join room group
        await self.channel_layer.group_add(self.room_group_name, self.channel_name)

        await self.accept()

        # Not in the tutorial: this tells the client that the consumer is another one.
        if self.scope["extensions"].get("websocket.resume", {}).get("resumed"):
            await self.send(text_data=json.dumps({"message": "resumed"}))

    async def disconnect(self, close_code):
        # Leave room group
        await self.channel_layer.group_discard(self.room_group_name, self.channel_name)

    # Receive message from WebSocket
    async def receive(self, text_data):
        text_data_json = json.loads(text_data)
        message = text_data_json["message"]
        if message == "who":
            await self.send(text_data=json.dumps({"message": self.channel_name, "pid": os.getpid()}))
            return
        if message.startswith("make "):
            await self.channel_layer.send("thumbnails", {"type": "make", "id": message, "for": self.channel_name})
            return
        if message.startswith("add "):
            # Another WebSocket, wherever it is.
            await self.channel_layer.group_add(self.room_group_name, message.partition(" ")[2])
            return

        # Send message to room group
        await self.channel_layer.group_send(self.room_group_name, {"type": "chat.message", "message": message})

    # Receive message from room group
    async def chat_message(self, event):
        message = event["message"]

        # Send message to WebSocket
        await self.send(text_data=json.dumps({"message": message}))

    async def thumbnail_made(self, event):
        await self.send(text_data=json.dumps({"message": f"made {event['id']}", "by": event["by"]}))


class SyncChatConsumer(WebsocketConsumer):
    def connect(self):
        self.room_name = self.scope["url_route"]["kwargs"]["room_name"]
        self.room_group_name = f"chat_{self.room_name}"

        # Join room group
        async_to_sync(self.channel_layer.group_add)(self.room_group_name, self.channel_name)

        self.accept()

    # It forgets to leave.

    # Receive message from WebSocket
    def receive(self, text_data):
        text_data_json = json.loads(text_data)
        message = text_data_json["message"]

        # Send message to room group
        async_to_sync(self.channel_layer.group_send)(self.room_group_name, {"type": "chat.message", "message": message})

    # Receive message from room group
    def chat_message(self, event):
        message = event["message"]

        # Send message to WebSocket
        self.send(text_data=json.dumps({"message": message}))


class ThumbnailConsumer(AsyncConsumer):
    async def make(self, message):
        await self.channel_layer.send(
            message["for"], {"type": "thumbnail.made", "id": message["id"], "by": os.getpid()}
        )


class EventsConsumer(AsyncHttpConsumer):
    """Server-sent events, which the servers write."""

    async def handle(self, body):
        await self.send_headers(headers=[(b"content-type", b"text/event-stream")])
        await self.send_body(b"", more_body=True)
        await self.channel_layer.group_add(f"chat_{self.scope['url_route']['kwargs']['room']}", self.channel_name)
        await self.send_body(b"data: joined\n\n", more_body=True)

    async def http_request(self, message):
        await self.handle(message.get("body", b""))
