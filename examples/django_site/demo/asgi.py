"""The site as one ASGI application: Django answers HTTP, the chat next door takes the WebSockets at ``/chat/ws``."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

from demo.first_start import prepare_database

__all__ = ["application"]

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.settings")
# The handler serves what is below STATIC_URL, with DEBUG off too. A large site leaves that to its proxy or a CDN.
pages = ASGIStaticFilesHandler(get_asgi_application())
prepare_database()

from chat.app import Chat  # noqa: E402 - the settings say where it is

Event = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

chat = Chat(settings.CHAT_DB)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await pages(scope, receive, send)
    else:
        # WebSockets, and the lifespan, which Django does not speak.
        await chat(scope | {"root_path": scope.get("root_path", "") + "/chat"}, receive, send)
