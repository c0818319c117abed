"""Take pictures of the running thing: ``python -m tools.pictures [NAME ...]``. Without names: all of them."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import BrowserContext

from tests.e2e.chromium import Chromium
from tests.e2e.running import ROOT
from tools.pictures import frames, scenes, screens
from tools.pictures.stage import SCALE, Stage

_TARGET: Final = ROOT / "docs/pictures"


def recording(name: str, scene: Callable[[BrowserContext, str, Path], Stage], chromium: Chromium) -> None:
    """Record a scene on light and on dark, with its last frame as a still."""
    for scheme in screens.SCHEMES:
        with tempfile.TemporaryDirectory() as folder:

            def story(context: BrowserContext, scheme: str = scheme, folder: str = folder) -> None:
                found = scene(context, scheme, Path(folder)).frames
                frames.save_animation(found, _TARGET / f"{name}-{scheme}.webp")
                frames.save_still(found[-1].image, _TARGET / f"{name}-still-{scheme}.webp")

            options: dict[str, Any] = {"device_scale_factor": SCALE, "color_scheme": scheme}
            chromium.visit(story, viewport={"width": 840, "height": 640}, **options)


def screens_of(chromium: Chromium) -> None:
    """The live view and ``ifserver top`` of the same site at the same time."""
    with tempfile.TemporaryDirectory() as folder, screens.busy_site(Path(folder)) as site:

        def story(context: BrowserContext) -> None:
            for name, image in screens.live_view(context, site):
                frames.save_still(image, _TARGET / f"screens-{name}.webp")

        chromium.visit(story, viewport=screens.VIEWPORT, device_scale_factor=SCALE)
        for scheme in screens.SCHEMES:
            (_TARGET / f"screens-top-{scheme}.svg").write_text(screens.top(site, scheme), "utf-8")


PICTURES: Final[dict[str, Callable[[Chromium], None]]] = {
    "kill": lambda chromium: recording("kill", scenes.kill, chromium),
    "edit": lambda chromium: recording("edit", scenes.edit, chromium),
    "screens": screens_of,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.pictures", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help=", ".join(PICTURES))
    names = parser.parse_args().names or list(PICTURES)
    if unknown := set(names) - PICTURES.keys():
        parser.error(f"no such picture: {', '.join(sorted(unknown))}; there are {', '.join(PICTURES)}")
    _TARGET.mkdir(exist_ok=True)
    with Chromium() as chromium:
        for name in names:
            PICTURES[name](chromium)
            for path in sorted(_TARGET.glob(f"{name}-*")):
                print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
