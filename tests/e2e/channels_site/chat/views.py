import os
import traceback

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.http import HttpResponse

from ifserver import groups


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


def fork(request, room):
    """A child does what this process could: it has the nodes of its parent, and channels of its own."""
    layer = get_channel_layer()
    ours = async_to_sync(layer.new_channel)()
    child = os.fork()
    if not child:
        status = 1
        try:
            theirs = async_to_sync(layer.new_channel)()
            assert ours.partition("!")[0] != theirs.partition("!")[0]
            async_to_sync(layer.group_add)(f"chat_{room}", theirs)
            message = {"type": "chat.message", "message": f"{request.GET['message']}, by a child"}
            async_to_sync(layer.group_send)(f"chat_{room}", message)
            assert async_to_sync(layer.receive)(theirs) == message
            groups.publish(f"chat_{room}", text="written by a child")
            async_to_sync(layer.send)(ours, {"type": "from.child"})
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    return HttpResponse(async_to_sync(layer.receive)(ours)["type"])


async def asay(request, room):
    await get_channel_layer().group_send(f"chat_{room}", {"type": "chat.message", "message": request.GET["message"]})
    return HttpResponse("said")
