import asyncio
import os
import time

from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, render

from pages.models import Attachment

VERSION = 1


def home(request):
    if request.htmx:
        return HttpResponse(f"<p>{Attachment.objects.count()} attachments</p>")
    return render(request, "pages/home.html", {"attachments": Attachment.objects.all(), "version": VERSION})


async def pause(request):
    await asyncio.sleep(0.01)
    return HttpResponse(f"{os.getpid()} {VERSION}")


def download(request, name):
    return FileResponse(get_object_or_404(Attachment, name=name).file.open(), as_attachment=True)


def fails(request):
    raise LookupError("in a sync view")


async def fails_async(request):
    raise LookupError("in an async view")


async def _ticks():
    number = 0
    while True:
        yield f"event: tick\nid: {number}\ndata: {VERSION}\n\n"
        number += 1
        await asyncio.sleep(0.1)


async def events(request):
    return StreamingHttpResponse(_ticks(), content_type="text/event-stream", headers={"Cache-Control": "no-cache"})


def _lines():
    for number in range(5):
        yield f"{number} {time.monotonic()}\n"
        time.sleep(0.2)


def lines(request):
    return StreamingHttpResponse(_lines(), content_type="text/plain")
