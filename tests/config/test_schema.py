"""What a setting is follows from the annotation of its field."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from msgspec import NODEFAULT, Meta

from ifserver.config.schema import Kind, Settings, section_of, settings_of
from ifserver.errors import ConfigurationError


class ThingSettings(Settings, frozen=True, kw_only=True):
    """For the tests."""

    must: Annotated[str, "What must be. Always."]
    wait_s: Annotated[Annotated[float, Meta(ge=0.5, le=9)] | None, "A wait; long: 3.5 s. More."] = 1.0
    again_s: Annotated[Annotated[int, Meta(ge=0)], "Whole seconds."] = 1
    max_bytes: Annotated[int, "A size."] = 1
    many: Annotated[tuple[str, ...], Meta(extra={"separator": None}), "Texts."] = ()
    numbers: Annotated[tuple[int, ...], "Numbers."] = (1, 2)
    on: Annotated[bool, "A switch."] = False
    way: Annotated[Literal["a", "b"], "A choice."] = "a"
    level: Annotated[Literal[0, 1], "A level."] = 0
    token: Annotated[Annotated[str, Meta(extra={"secret": True})] | None, "A password."] = None
    hidden: int = 3


def test_the_kinds() -> None:
    assert {name: setting.kind for name, setting in settings_of(ThingSettings).items()} == {
        "must": Kind.TEXT,
        "wait_s": Kind.DURATION,
        "again_s": Kind.DURATION,
        "max_bytes": Kind.SIZE,
        "many": Kind.TEXTS,
        "numbers": Kind.NUMBERS,
        "on": Kind.SWITCH,
        "way": Kind.CHOICE,
        "level": Kind.NUMBER,
        "token": Kind.TEXT,
    }


def test_all_that_is_known_of_one() -> None:
    wait, again, must = (settings_of(ThingSettings)[name] for name in ("wait_s", "again_s", "must"))
    assert (wait.path, wait.variable, wait.stem) == ("thing.wait_s", "IFSERVER_THING_WAIT_S", "wait")
    assert (wait.default, wait.optional, wait.whole, wait.least, wait.most) == (1.0, True, False, 0.5, 9)
    assert (wait.summary, must.summary, again.summary) == ("A wait; long: 3.5 s", "What must be", "Whole seconds")
    assert (again.optional, again.whole) == (False, True)
    assert (must.default, must.required, wait.required) == (NODEFAULT, True, False)
    assert settings_of(ThingSettings)["way"].choices == ("a", "b")


def test_lists_and_what_separates_their_values() -> None:
    found = settings_of(ThingSettings)
    assert [name for name, setting in found.items() if setting.many] == ["many", "numbers"]
    assert (found["many"].separator, found["numbers"].separator) == (None, ",")


def test_secrets_are_not_shown() -> None:
    assert [name for name, setting in settings_of(ThingSettings).items() if setting.secret] == ["token"]
    thing = ThingSettings(must="x", token="geheim")
    assert "must='x'" in repr(thing)
    assert "token=***" in repr(thing)
    assert "geheim" not in f"{thing} {thing!r}"
    assert "token=None" in repr(ThingSettings(must="x"))


def test_a_section_is_named_after_its_struct() -> None:
    assert section_of(ThingSettings) == "thing"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"wait_s": 0.4}, "thing.wait_s: must be at least 0.5, got 0.4"),
        ({"wait_s": 9.1}, "thing.wait_s: must be at most 9, got 9.1"),
        ({"wait_s": float("nan")}, "thing.wait_s: must be at least 0.5, got nan"),
        ({"again_s": -1}, "thing.again_s: must be at least 0, got -1"),
        ({"way": "c"}, "thing.way: must be a or b, got 'c'"),
        ({"level": 2}, "thing.level: must be 0 or 1, got 2"),
    ],
)
def test_what_cannot_be(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ThingSettings(must="x", **values)  # type: ignore[arg-type]
    assert str(caught.value) == said


def test_none_is_within_every_limit() -> None:
    assert ThingSettings(must="x", wait_s=None).wait_s is None
