import os

from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
http = get_asgi_application()

from chat import consumers  # noqa: E402

application = ProtocolTypeRouter(
    {
        "http": URLRouter([path("events/<room>/", consumers.EventsConsumer.as_asgi()), path("<path:rest>", http)]),
        "websocket": URLRouter(
            [
                path("ws/chat/<room_name>/", consumers.ChatConsumer.as_asgi()),
                path("ws/sync/<room_name>/", consumers.SyncChatConsumer.as_asgi()),
            ]
        ),
        "channel": ChannelNameRouter({"thumbnails": consumers.ThumbnailConsumer.as_asgi()}),
    }
)
