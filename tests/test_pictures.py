"""The pictures of the documentation: those that pages name are there, on light and on dark, and of a sane size; and how
recordings are paced. ``make pictures`` takes them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tools.pictures.frames import Frame, paced, save_animation
from tools.pictures.stage import SCALE, classed

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PICTURES = sorted((DOCS / "pictures").iterdir())
RECORDINGS = [path for path in PICTURES if re.fullmatch(r"(kill|edit)-(light|dark)", path.stem)]
#: In bytes: of one recording, of any other picture, of all together.
RECORDING_BYTES, PICTURE_BYTES, ALL_BYTES = 400_000, 200_000, 2_000_000


def named(page: Path) -> list[tuple[Path, str]]:
    """The pictures that a page names, with what it says for those who do not see them."""
    pattern = r"^\.\. image:: (\S+)\n((?:   .+\n)*)"
    found = re.findall(pattern, page.read_text("utf-8"), re.MULTILINE)
    return [
        ((page.parent / name).resolve(), " ".join(options.partition(":alt: ")[2].split())) for name, options in found
    ]


ALL_NAMED = [(page, *each) for page in (ROOT / "README.rst", *sorted(DOCS.rglob("*.rst"))) for each in named(page)]


def test_every_picture_that_a_page_names_is_there_and_is_told() -> None:
    assert len(ALL_NAMED) > 8
    for page, path, told in ALL_NAMED:
        assert path.is_file(), (page, path)
        assert len(told) > 40, (page, path)


def test_every_picture_is_shown() -> None:
    """A page names the light one; the site, or the README, has the dark one and the still one too."""
    light = {path.name.replace("-dark.", "-light.") for _, path, _ in ALL_NAMED if path.parent == DOCS / "pictures"}
    wanted = {name.replace("-light.", f"-{scheme}.") for name in light for scheme in ("light", "dark")}
    wanted |= {
        path.name.replace(path.stem.partition("-")[0], path.stem.partition("-")[0] + "-still") for path in RECORDINGS
    }
    assert {path.name for path in PICTURES} == wanted


def test_pictures_are_small() -> None:
    assert {path.name for path in RECORDINGS if path.stat().st_size > RECORDING_BYTES} == set()
    assert {path.name for path in set(PICTURES) - set(RECORDINGS) if path.stat().st_size > PICTURE_BYTES} == set()
    assert sum(path.stat().st_size for path in PICTURES) < ALL_BYTES


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.name)
def test_recordings_go_on_and_on_and_are_short(path: Path) -> None:
    still = path.with_name(path.name.replace("-", "-still-"))
    with Image.open(path) as image, Image.open(still) as last:
        assert image.width == 840 * SCALE
        assert image.size == last.size
        assert image.n_frames > 20
        assert image.info["loop"] == 0
        shown_ms = 0
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            shown_ms += image.info["duration"]
    assert 8_000 < shown_ms < 40_000


def grey(value: int) -> Image.Image:
    return Image.new("RGBA", (4, 4), (value, value, value, 255))


def test_a_frame_is_shown_for_as_long_as_it_was_seen_and_at_most_so_long() -> None:
    frames = [
        Frame(grey(1), 10.0, 1.0),
        Frame(grey(2), 10.25, 1.0),
        Frame(grey(3), 14.25, 0.5),
        Frame(grey(4), 15.0, 0.1),
    ]
    assert [shown_ms for _, shown_ms in paced(frames)] == [250, 1000, 500, 5000]
    assert paced([]) == []


def test_frames_that_are_alike_are_one() -> None:
    frames = [Frame(grey(1), 0.0, 1.0), Frame(grey(1), 0.5, 1.0), Frame(grey(2), 1.0, 1.0), Frame(grey(1), 1.0, 9.0)]
    assert [(image.getpixel((0, 0))[0], shown_ms) for image, shown_ms in paced(frames)] == [
        (1, 1000),
        (2, 20),
        (1, 9000),
    ]


def test_an_animation_is_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "animation.webp"
    save_animation([Frame(grey(value), float(value), 1.0) for value in (7, 8, 9)], path)
    with Image.open(path) as image:
        assert image.n_frames == 3
        image.seek(1)
        assert image.convert("RGBA").getpixel((0, 0)) == (8, 8, 8, 255)


def test_lines_that_stand_out() -> None:
    looks = [("fault", "killed"), ("news", "worker")]
    lines = ["worker 1 was killed", "worker 2 is ready", "GET /"]
    assert classed(lines, looks) == [("fault", lines[0]), ("news", lines[1]), ("", lines[2])]
