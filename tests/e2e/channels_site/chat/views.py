from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.http import HttpResponse


def say(request, room):
    message = {"type": "chat.message", "message": request.GET["message"]}
    async_to_sync(get_channel_layer().group_send)(f"chat_{room}", message)
    return HttpResponse("said")


def write(request, room):
    async_to_sync(get_channel_layer().group_send)(
        f"chat_{room}", {"type": "websocket.send", "text": request.GET["message"]}
    )
    return HttpResponse("written")


def close(request, room):
    async_to_sync(get_channel_layer().group_send)(
        f"chat_{room}", {"type": "websocket.close", "code": 4001, "reason": "bye"}
    )
    return HttpResponse("closed")


def round_trip(request, room):
    layer = get_channel_layer()
    name = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)(f"chat_{room}", name)
    async_to_sync(layer.group_send)(f"chat_{room}", {"type": "chat.message", "message": "round"})
    return HttpResponse(f"{name} {async_to_sync(layer.receive)(name)['message']}")


async def asay(request, room):
    await get_channel_layer().group_send(f"chat_{room}", {"type": "chat.message", "message": request.GET["message"]})
    return HttpResponse("said")
