"""Frames of a recording: how long each is shown, and the animated picture of them all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Final, NamedTuple

from PIL import Image

__all__ = ["Frame", "paced", "save_animation", "save_still"]

#: The last frame stays for so long before the animation begins anew, in milliseconds.
_LAST_MS: Final = 5000
#: Browsers show what is shorter than this for longer than it says.
_SHORTEST_MS: Final = 20


class Frame(NamedTuple):
    """What was seen at a time.

    Attributes:
        at_s: when, in seconds, by a clock that only goes forward.
        longest_s: it is shown for as long as it really was seen, but at most for so long, in seconds. A busy machine
            takes its time for each frame, and a worker for its start; who looks at the picture need not wait for that.
    """

    image: Image.Image
    at_s: float
    longest_s: float


def paced(frames: Sequence[Frame]) -> list[tuple[Image.Image, int]]:
    """The pictures and how long each is shown, in milliseconds. Those that are like the one before are left out."""
    found: list[tuple[Image.Image, int]] = []
    for frame, after in zip_longest(frames, frames[1:]):
        seen_s = frame.longest_s if after is None else after.at_s - frame.at_s
        shown_ms = max(_SHORTEST_MS, round(1000 * min(seen_s, frame.longest_s)))
        if found and found[-1][0].tobytes() == frame.image.tobytes():
            found[-1] = found[-1][0], found[-1][1] + shown_ms
        else:
            found.append((frame.image, shown_ms))
    if found:
        found[-1] = found[-1][0], max(found[-1][1], _LAST_MS)
    return found


def save_animation(frames: Sequence[Frame], path: Path) -> None:
    """Write an animated WebP, without loss, that goes on and on."""
    images, shown_ms = zip(*paced(frames), strict=True)
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=list(shown_ms),
        loop=0,
        lossless=True,
        quality=90,
        method=4,
        minimize_size=True,
    )


def save_still(image: Image.Image, path: Path) -> None:
    """Write a WebP without loss."""
    image.save(path, lossless=True, quality=90, method=4)
