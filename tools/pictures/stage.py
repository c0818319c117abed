"""The stage: two browsers beside each other, windows of a desk below them, and what is seen of it all, frame by frame.

The browsers are two profiles of Chromium with nothing in common. Their pages, and the stage around them, are
photographed by Chromium at the same moment, and put together here.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image
from playwright.sync_api import BrowserContext, Page

from tools.pictures.frames import Frame

__all__ = ["CARET", "SCALE", "Person", "Stage", "classed", "photograph"]

#: Pixels of a picture for each CSS pixel: sharp at the width in which pages show it.
SCALE: Final = 1.5
#: The pages are shown a little smaller than the stage around them, so that more of a chat is seen.
_ZOOM: Final = 0.8
#: Where text is being typed.
CARET: Final = "\u258f"
#: How long the frame of a key that is pressed is shown at most, in seconds.
_KEY_S: Final = 0.07
#: Whoever types takes so many letters at once.
_LETTERS: Final = 2
#: Of what is waited for there is a frame every so many seconds.
_LOOK_S: Final = 0.25
_PAGE: Final = Path(__file__).with_name("stage.html")
#: Counts the WebSockets of a page from within, before any script of its own runs.
_MEASURE: Final = """
window.measured = [];
window.WebSocket = class extends WebSocket {
  constructor(...given) {
    super(...given);
    const each = { opened: null, closed: false };
    window.measured.push(each);
    this.addEventListener("open", () => { each.opened = performance.now(); });
    this.addEventListener("close", () => { each.closed = true; });
  }
};
"""
_MEASURED: Final = """() => {
  const open = window.measured.find((each) => each.opened !== null && !each.closed);
  return {
    open_s: open ? Math.floor((performance.now() - open.opened) / 1000) : null,
    closed: window.measured.filter((each) => each.closed).length,
  };
}"""


class Person:
    """Somebody with a browser, in a chat."""

    def __init__(self, stage: Stage, page: Page, place: tuple[int, int]) -> None:
        self.page = page
        #: Where the page is on the stage, in pixels of the picture.
        self.place = place
        #: The page, as it was photographed last.
        self.image: Image.Image | None = None
        self._stage = stage

    def says(self, text: str) -> None:
        """Type a message, with frames of it, and send it."""
        self.types(text)
        self._stage.hold(0.4)
        self.sends()

    def types(self, text: str) -> None:
        """Type a message, with frames of it."""
        self.page.locator("#text").focus()
        for part in _parts(text):
            self.page.keyboard.type(part)
            self._stage.capture(_KEY_S, [self])

    def sends(self) -> None:
        """Send what was typed."""
        self.page.locator("#text").press("Enter")
        self._stage.capture(_KEY_S)

    def hears(self, text: str) -> None:
        """Wait until a message is shown."""
        heard = self.page.locator("#messages .text", has_text=text)
        self._stage.until(lambda: heard.count() > 0, f"{text!r} is heard")

    def measured(self) -> Any:
        """How long its WebSocket is open, in seconds (None: there is none), and how many were closed."""
        return self.page.evaluate(_MEASURED)


class Stage:
    """What is recorded.

    Args:
        context: of the stage, with `SCALE`. Those of the browsers are made of the same browser.
        scheme: ``light`` or ``dark``.
    """

    def __init__(self, context: BrowserContext, scheme: str) -> None:
        self.frames: list[Frame] = []
        self.people: list[Person] = []
        #: Is called before each frame.
        self.refresh: Callable[[], None] = lambda: None
        self._scheme: Any = scheme
        self._context = context
        self._page = context.new_page()
        self._page.goto(_PAGE.as_uri())

    def call(self, function: str, argument: Any) -> Any:
        """Call a function of ``stage.html``."""
        return self._page.evaluate(f"(argument) => stage.{function}(argument)", argument)

    def invite(self, url: str, *names: str) -> list[Person]:
        """Open `url`, a chat, in a browser for each of them."""
        for name in names:
            self.call("addBrowser", {"title": name, "address": url.partition("://")[2]})
        self.people = [
            self._arrived(url, name, where) for name, where in zip(names, self.call("places", None), strict=True)
        ]
        return self.people

    def _arrived(self, url: str, name: str, where: dict[str, float]) -> Person:
        assert self._context.browser is not None
        context = self._context.browser.new_context(
            viewport={"width": round(where["width"] / _ZOOM), "height": round(where["height"] / _ZOOM)},
            device_scale_factor=SCALE * _ZOOM,
            color_scheme=self._scheme,
            locale="en-GB",
            reduced_motion="reduce",
        )
        context.add_init_script(_MEASURE)
        page = context.new_page()
        page.goto(url)
        page.locator("#status[data-state=connected]").wait_for()
        page.locator("#name").fill(name)
        return Person(self, page, (round(where["x"] * SCALE), round(where["y"] * SCALE)))

    def crop(self) -> None:
        """The stage is as high as what is on it."""
        size = self._page.evaluate("() => document.body.getBoundingClientRect().height")
        self._page.set_viewport_size({"width": 840, "height": round(size) + round(size) % 2})

    # Time goes on.

    def capture(self, longest_s: float, changed: Sequence[Person] | None = None) -> None:
        """Take a frame, which is shown for so many seconds at most. `changed`: nothing happens in other browsers."""
        at_s = time.monotonic()
        for person in self.people:
            if person.image is None or changed is None or person in changed:
                person.image = photograph(person.page)
        # The stage comes last, so that no page shows what its log does not tell yet.
        self.refresh()
        self.call("setStrips", [person.measured() for person in self.people])
        image = photograph(self._page)
        for person in self.people:
            assert person.image is not None
            image.paste(person.image, person.place)
        self.frames.append(Frame(image, at_s, longest_s))

    def hold(self, seconds: float) -> None:
        """Let so much time pass."""
        end = time.monotonic() + seconds
        self.capture(seconds)
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_S))
            self.capture(min(max(end - time.monotonic(), 0.02), 2 * _LOOK_S))

    def until(self, look: Callable[[], bool], what: str, within_s: float = 120.0) -> None:
        """Wait until something is so.

        Raises:
            TimeoutError: it does not become so in time.
        """
        end = time.monotonic() + within_s
        while not look():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {within_s} s: {what}")
            self.capture(2 * _LOOK_S)
            time.sleep(_LOOK_S)
        self.capture(2 * _LOOK_S)

    def typed(self, show: Callable[[str], None], text: str) -> None:
        """Show a text that grows, with frames of it."""
        shown = ""
        for part in _parts(text):
            shown += part
            show(shown + CARET)
            self.capture(_KEY_S, [])


def _parts(text: str) -> Iterator[str]:
    for start in range(0, len(text), _LETTERS):
        yield text[start : start + _LETTERS]


def photograph(page: Page) -> Image.Image:
    """What is seen of a page now."""
    data = page.screenshot(omit_background=True, animations="disabled")
    return Image.open(io.BytesIO(data)).convert("RGBA")


def classed(lines: Sequence[str], looks: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each line with the class of the first of `looks` (class, a part of the line) that fits."""
    return [(next((look for look, part in looks if part in line), ""), line) for line in lines]
