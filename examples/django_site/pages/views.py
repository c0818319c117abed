import asyncio
import hashlib
import os
from collections.abc import AsyncIterator

from chat.app import PAGE as CHAT_PAGE
from django.core.files.uploadedfile import UploadedFile
from django.db import transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from pages.consumers import announce
from pages.forms import EntryForm, UploadForm
from pages.models import Entry, Upload

SHOWN_ENTRIES = 20
STREAM_LINES = 10
STREAM_PAUSE_SECONDS = 0.1
CLOCK_TICKS = 30
CLOCK_PAUSE_SECONDS = 1.0


@require_safe
@never_cache
def home(request: HttpRequest) -> HttpResponse:
    return render(request, "pages/home.html", {"pid": os.getpid()})


def guestbook(request: HttpRequest) -> HttpResponse:
    form = EntryForm(request.POST or None)
    if form.is_valid():
        form.instance.author = request.user.get_username() or "A guest"
        form.save()
        author = form.instance.author
        # Robust: the entry counts also where nobody can be told, as with a server that has no groups.
        transaction.on_commit(lambda: announce(f"{author} has signed the guestbook."), robust=True)
        return redirect("guestbook")
    return render(request, "pages/guestbook.html", {"form": form, "entries": Entry.objects.all()[:SHOWN_ENTRIES]})


def upload(request: HttpRequest, upload_id: int | None = None) -> HttpResponse:
    form = UploadForm(request.POST or None, request.FILES or None)
    if form.is_valid():
        return redirect("uploaded", store(form.cleaned_data["file"]).pk)
    result = get_object_or_404(Upload, pk=upload_id) if upload_id else None
    return render(request, "pages/upload.html", {"form": form, "result": result})


def store(file: UploadedFile) -> Upload:
    """Keep the file and its digest. It is read in chunks and never as a whole, however large it is."""
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    return Upload.objects.create(file=file, name=file.name, size_bytes=file.size, sha256=digest.hexdigest())


@require_safe
async def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Lines of text, each sent when it is made."""

    async def lines() -> AsyncIterator[str]:
        for number in range(1, STREAM_LINES + 1):
            yield f"Line {number} of {STREAM_LINES}, at {timezone.now():%H:%M:%S.%f}\n"
            await asyncio.sleep(STREAM_PAUSE_SECONDS)

    return StreamingHttpResponse(lines(), content_type="text/plain; charset=utf-8")


@require_safe
def clock(request: HttpRequest) -> HttpResponse:
    return render(request, "pages/clock.html")


@require_safe
@never_cache
async def clock_events(request: HttpRequest) -> StreamingHttpResponse:
    """The time once a second, as server-sent events, and ``end`` after the last."""

    async def events() -> AsyncIterator[str]:
        for number in range(CLOCK_TICKS):
            yield f"id: {number}\nevent: time\ndata: {timezone.now():%H:%M:%S}\n\n"
            await asyncio.sleep(CLOCK_PAUSE_SECONDS)
        yield "event: end\ndata:\n\n"

    return StreamingHttpResponse(events(), content_type="text/event-stream")


@require_safe
def chat(request: HttpRequest) -> HttpResponse:
    """The chat's page. Its WebSocket goes to ``pages/consumers.py``."""
    way_back = f'<a id="back" href="{reverse("home")}">&larr; Start page</a>'
    return HttpResponse(CHAT_PAGE.read_text("utf-8").replace("<!-- the way back -->", way_back))


@require_safe
def favicon(request: HttpRequest) -> HttpResponse:
    """Browsers ask for it on pages that name no icon, such as those of the admin."""
    return redirect(static("pages/icon.svg"))
