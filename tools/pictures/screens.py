"""What operators see: the live view and ``ifserver top``, of a site with traffic, a deploy and a killed worker."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Literal

import httpx
from PIL import Image
from playwright.sync_api import BrowserContext, FloatRect, Page, ViewportSize
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from ifserver.observe.viewer.client import Client
from ifserver.observe.viewer.top import Screen
from tests.e2e.operators import ADMIN, admin_of
from tests.e2e.running import LIMIT_S, ROOT, Running
from tools.pictures.stage import SCALE, photograph

__all__ = ["SCHEMES", "VIEWPORT", "busy_site", "live_view", "top"]

SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
#: The charts show two minutes: what happens in them, in seconds since the first request.
_KILLED_S, _DEPLOYED_S, _TAKEN_S = 55.0, 90.0, 122.0
#: Clients that ask one request after the other, that look at the clock, and that sit in the chat.
_CLIENTS, _CLOCKS, _GUESTS = 5, 4, 24
_PATHS: Final = ("/", "/guestbook/", "/chat/", "/", "/guestbook/", "/", "/chat/", "/guestbook/", "/", "/stream/")
#: A client asks again after so long, in seconds, at the quietest and at the busiest time.
_PAUSES_S: Final = (0.4, 0.1)
_WAVE_S: Final = 37.0
#: After so long every figure of the live view has moved, in seconds.
_FIGURES_S: Final = 4.0
#: The window of its browser: three charts in a row, and no wider, since pages show it smaller.
VIEWPORT: Final[ViewportSize] = {"width": 1000, "height": 1200}
#: Around what is cut out of it, in CSS pixels.
_MARGIN: Final = 5
#: The terminal of ``ifserver top``.
_COLUMNS, _LINES = 98, 32


def _theme(background: int, foreground: int, colours: Sequence[int]) -> TerminalTheme:
    """Of colours as 0xRRGGBB. `colours`: black, red, green, yellow, blue, magenta, cyan, white."""
    triples = [(each >> 16, each >> 8 & 255, each & 255) for each in (background, foreground, *colours)]
    return TerminalTheme(triples[0], triples[1], triples[2:])


#: A terminal on light and on dark.
_THEMES: Final[dict[str, TerminalTheme]] = {
    "light": _theme(
        0xFBFBFD, 0x1B1F27, (0x1B1F27, 0xB42318, 0x0F7B4C, 0x8A5A00, 0x1C3FAE, 0x7A3EA8, 0x0B6E80, 0x5A6474)
    ),
    "dark": _theme(
        0x14161B, 0xE8EAEE, (0x14161B, 0xFF8B7E, 0x4CD196, 0xE5C07B, 0x9DB4FF, 0xD3A6F5, 0x6FD3E3, 0xE8EAEE)
    ),
}


@contextmanager
def busy_site(folder: Path) -> Iterator[Running]:
    """The Django example, after two minutes with traffic, ``kill -9`` of a worker and a deploy. The traffic goes on."""
    options = ["-p", "0", "--workers", "3", "--resumable", "/chat/*", *ADMIN]
    environment = {"DJANGO_SITE_DATA": str(folder / "data"), "DJANGO_SITE_DEBUG": "1"}
    command = ["run", "demo.asgi:application", *options]
    with (
        Running(*command, app_dir=ROOT / "examples/django_site", environment=environment) as site,
        ExitStack() as stack,
    ):
        over = threading.Event()
        chat = f"{site.ready().url.replace('http', 'ws', 1)}/chat/ws"
        guests = [stack.enter_context(connect(chat, origin=Origin(site.url))) for _ in range(_GUESTS)]
        began = time.monotonic()
        threads = [threading.Thread(target=_ask, args=(site.url, began, over)) for _ in range(_CLIENTS)]
        threads += [threading.Thread(target=_look, args=(site.url, over)) for _ in range(_CLOCKS)]
        threads.append(threading.Thread(target=_chat, args=(guests, over)))
        for thread in threads:
            thread.start()
        try:
            time.sleep(_KILLED_S)
            os.kill(site.workers()[0], signal.SIGKILL)
            time.sleep(began + _DEPLOYED_S - time.monotonic())
            site.process.send_signal(signal.SIGHUP)
            time.sleep(began + _TAKEN_S - time.monotonic())
            yield site
        finally:
            over.set()
            for thread in threads:
                thread.join(LIMIT_S)


def _ask(url: str, began: float, over: threading.Event) -> None:
    """Requests in waves."""
    slowest, fastest = _PAUSES_S
    with httpx.Client(base_url=url, timeout=LIMIT_S) as client:
        while True:
            for path in random.sample(_PATHS, len(_PATHS)):
                # A response that had begun is cut where its worker is killed.
                with contextlib.suppress(httpx.TransportError):
                    client.get(path)
                height = (1 + math.sin((time.monotonic() - began) * math.tau / _WAVE_S)) / 2
                if over.wait(random.uniform(0.5, 1.5) * (slowest + (fastest - slowest) * height)):
                    return


def _look(url: str, over: threading.Event) -> None:
    """An event stream, and the next when it has ended."""
    with httpx.Client(base_url=url, timeout=LIMIT_S) as client:
        while not over.is_set():
            with contextlib.suppress(httpx.TransportError), client.stream("GET", "/clock/events/") as events:
                for _ in events.iter_lines():
                    if over.is_set():
                        break


def _chat(guests: list[ClientConnection], over: threading.Event) -> None:
    """Whoever is in the chat hears all, and one of them says something once a second."""
    number = 0
    while not over.wait(1.0):
        number += 1
        guests[number % len(guests)].send(json.dumps({"name": f"Guest {number % len(guests)}", "text": "Hello"}))
        for guest in guests:
            with contextlib.suppress(TimeoutError, ConnectionClosed):
                while True:
                    guest.recv(timeout=0)


def live_view(context: BrowserContext, site: Running) -> Iterator[tuple[str, Image.Image]]:
    """Pictures of the live view, each with its name: from the top to the flow, and the charts alone."""
    page = context.new_page()
    page.goto(f"{admin_of(site)}/")
    page.locator("#freshness", has_text="live").wait_for()
    page.locator("#range input[value='120']").check(force=True)
    page.locator("#events li", has_text="worker killed").wait_for()
    time.sleep(_FIGURES_S)
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        image = photograph(page)
        yield f"view-{scheme}", image.crop((0, 0, image.width, _below(page, "#flow")))
        yield f"deploy-{scheme}", image.crop((0, _above(page, "#charts"), image.width, _below(page, "#timeline")))


def _above(page: Page, selector: str) -> int:
    return round(SCALE * (_box(page, selector)["y"] - _MARGIN))


def _below(page: Page, selector: str) -> int:
    box = _box(page, selector)
    return round(SCALE * (box["y"] + box["height"] + _MARGIN))


def _box(page: Page, selector: str) -> FloatRect:
    box = page.locator(selector).bounding_box()
    assert box is not None, selector
    return box


def top(site: Running, scheme: str) -> str:
    """What ``ifserver top`` shows, the latest streams first and one of them selected, as SVG."""
    client = Client(admin_of(site))
    screen = Screen(client.close)
    screen.update(client.status())
    for key in ("r", "down", "down"):
        screen.key(key)
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=_COLUMNS, height=_LINES, file=nowhere, force_terminal=True)
        console.print(screen.render(console.height, console.width))
        console.print()  # the last line is cut off a little
        drawn = console.export_svg(title="ifserver top", theme=_THEMES[scheme], unique_id="top")
    # A page of ours asks nobody else for its fonts. And the border is for dark pages alone.
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
    return drawn.replace("rgba(255,255,255,0.35)", "#8b93a1")
