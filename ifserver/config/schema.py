"""What a setting is, read from the annotation of its field; its flag, its variable and its key follow from that. Pure.

::

    max_body_bytes: Annotated[Bytes | None, "Body of one request; 413 beyond. none: unlimited."] = 1024 * MIB

The text is the setting's description, wherever one is shown: its first sentence must do for ``--help``. The unit is the
end of the name (``_s``, ``_bytes``), limits are ``msgspec.Meta`` in the type. ``Meta(extra={"secret": True})`` marks a
password.
"""

from __future__ import annotations

import enum
import functools
import types
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import NODEFAULT, Meta, Struct, structs

from ifserver.errors import ConfigurationError

__all__ = ["Kind", "Setting", "Settings", "section_of", "settings_of"]


class Kind(enum.Enum):
    """What a setting holds; the value says so to people."""

    SWITCH = "true or false"
    NUMBER = "a whole number"
    FRACTION = "a number"
    DURATION = "a duration"
    SIZE = "a size"
    TEXT = "a text"
    CHOICE = "one of a few words"
    TEXTS = "a list of texts"
    NUMBERS = "a list of whole numbers"
    #: ``NAME=URL[,URL...]`` for each cluster.
    CLUSTERS = "clusters, each with a list of URLs"
    VARIABLES = "a table of texts"


#: Settings that hold several values, which one flag each may add.
_LISTS: Final = frozenset({Kind.TEXTS, Kind.NUMBERS, Kind.CLUSTERS})


class Setting(Struct, frozen=True, kw_only=True):
    """One setting."""

    section: str
    name: str
    kind: Kind
    doc: str
    #: `msgspec.NODEFAULT` where one must be given.
    default: Any
    #: Whether ``none`` is a value.
    optional: bool
    #: Whether a duration must be whole seconds.
    whole: bool
    least: float | None
    most: float | None
    #: All that it can be; empty: that is not known before.
    choices: tuple[Any, ...]
    #: What separates the values of a list in a variable and a flag; None: white space in a variable, nothing in a flag.
    separator: str | None
    #: Whether nobody is shown its value. It has no flag: every user of the machine can read command lines.
    secret: bool

    @property
    def path(self) -> str:
        """``front.max_body_bytes``, by which errors name it."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return f"IFSERVER_{self.section}_{self.name}".upper()

    @property
    def stem(self) -> str:
        """Its name without the unit of a time, as flags have it."""
        return self.name.removesuffix("_s").replace("_", "-")

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is NODEFAULT

    @property
    def many(self) -> bool:
        """Whether it holds several values."""
        return self.kind in _LISTS

    @property
    def summary(self) -> str:
        """The first sentence of its description, without its full stop."""
        return self.doc.split(". ")[0].removesuffix(".")

    def check(self, value: Any) -> None:
        """Raise `ConfigurationError` when `value`, which is of the right type, is not allowed."""
        if value is None:
            return
        # `not >=` is also true for nan.
        if self.least is not None and not value >= self.least:
            raise ConfigurationError(f"{self.path}: must be at least {self.least}, got {value}")
        if self.most is not None and not value <= self.most:
            raise ConfigurationError(f"{self.path}: must be at most {self.most}, got {value}")
        if self.choices and value not in self.choices:
            *others, last = map(str, self.choices)
            raise ConfigurationError(f"{self.path}: must be {', '.join(others)} or {last}, got {value!r}")


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base: checks each value against the limits and the choices in its annotation when it is made."""

    def __post_init__(self) -> None:
        for name, setting in settings_of(type(self)).items():
            setting.check(getattr(self, name))

    def __repr__(self) -> str:
        secret = {name for name, setting in settings_of(type(self)).items() if setting.secret}
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = ", ".join(f"{name}={'***' if name in secret and value else repr(value)}" for name, value in fields)
        return f"{type(self).__name__}({shown})"


def section_of(struct: type[Settings]) -> str:
    """The name of its table in the file: ``front`` of ``FrontSettings``."""
    return struct.__name__.removesuffix("Settings").lower()


@functools.cache
def settings_of(struct: type[Settings]) -> dict[str, Setting]:
    """The settings of a struct by their names: all fields that are described."""
    hints = get_type_hints(struct, include_extras=True)
    found = {}
    for field in structs.fields(struct):
        inner, notes, optional = _taken_apart(hints[field.name])
        doc = next((note for note in notes if isinstance(note, str)), None)
        metas = [note for note in notes if isinstance(note, Meta)]
        extra = {key: value for meta in metas for key, value in (meta.extra or {}).items()}
        if doc is not None:
            found[field.name] = Setting(
                section=section_of(struct),
                name=field.name,
                kind=_kind(field.name, inner),
                doc=doc,
                default=field.default if field.default_factory is NODEFAULT else field.default_factory(),
                optional=optional,
                whole=inner is int,
                least=next((meta.ge for meta in metas if meta.ge is not None), None),
                most=next((meta.le for meta in metas if meta.le is not None), None),
                choices=get_args(inner) if get_origin(inner) is Literal else (),
                separator=extra.get("separator", ","),
                secret=extra.get("secret", False),
            )
    return found


def _taken_apart(hint: Any) -> tuple[Any, list[Any], bool]:
    """The bare type of an annotation, its notes from the outermost to the innermost, and whether None is allowed."""
    notes: list[Any] = []
    optional = False
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            notes += more
        elif get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint):
            optional = True
            [hint] = [each for each in get_args(hint) if each is not type(None)]
        else:
            return hint, notes, optional


def _kind(name: str, inner: Any) -> Kind:
    if get_origin(inner) is tuple:
        return {str: Kind.TEXTS, int: Kind.NUMBERS}.get(get_args(inner)[0], Kind.CLUSTERS)
    if get_origin(inner) is dict:
        return Kind.VARIABLES
    if get_origin(inner) is Literal and isinstance(get_args(inner)[0], str):
        return Kind.CHOICE
    if inner is bool:
        return Kind.SWITCH
    if inner is str:
        return Kind.TEXT
    if name.endswith("_s"):
        return Kind.DURATION
    if inner is float:
        return Kind.FRACTION
    return Kind.SIZE if name.endswith("_bytes") else Kind.NUMBER
