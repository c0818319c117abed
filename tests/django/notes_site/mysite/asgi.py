from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

http = get_asgi_application()

from notes.consumers import NotesConsumer  # noqa: E402

application = ProtocolTypeRouter({"http": http, "websocket": URLRouter([path("ws/", NotesConsumer.as_asgi())])})
