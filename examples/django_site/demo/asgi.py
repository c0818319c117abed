"""The site as one ASGI application: Django answers HTTP, and Channels takes the WebSockets at ``/chat/ws``."""

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

from demo.first_start import prepare_database

__all__ = ["application"]

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.settings")
# The handler serves what is below STATIC_URL, with DEBUG off too. A large site leaves that to its proxy or a CDN.
pages = ASGIStaticFilesHandler(get_asgi_application())
prepare_database()

# These import models, which get_asgi_application() makes ready.
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.urls import path  # noqa: E402
from pages.consumers import ChatConsumer  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": pages,
        "websocket": AllowedHostsOriginValidator(URLRouter([path("chat/ws", ChatConsumer.as_asgi())])),
    }
)
