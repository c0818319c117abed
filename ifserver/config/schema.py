"""What a setting is, read from the annotation of its field; its flag, its variable and its key follow from that. Pure.

::

    max_body_bytes: Annotated[Bytes | None, "Body of one request; 413 beyond. none: unlimited.", LIVE] = 1024 * MIB

The text is the setting's description, wherever one is shown: its first sentence must do for ``--help``. The unit is the
end of the name (``_s``, ``_bytes``), limits are ``msgspec.Meta`` in the type. The notes `flag`, `check` and `LIVE`, and
the types below, add the rest.
"""

from __future__ import annotations

import enum
import functools
import types
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from msgspec import NODEFAULT, Meta, Struct, structs

from ifserver.errors import ConfigurationError

#: Notes that a server takes a new value over while it runs, without a restart.
LIVE: Final = Meta(extra={"live": True})

Seconds: TypeAlias = Annotated[float, Meta(ge=0)]
#: A wait that cannot be nothing.
SomeSeconds: TypeAlias = Annotated[float, Meta(ge=0.001)]
Bytes: TypeAlias = Annotated[int, Meta(ge=0)]
SomeBytes: TypeAlias = Annotated[int, Meta(ge=1)]
#: How many.
Count: TypeAlias = Annotated[int, Meta(ge=1)]
#: These may have commas in them.
Texts: TypeAlias = Annotated[tuple[str, ...], Meta(extra={"separator": None})]
#: A password.
Secret: TypeAlias = Annotated[str, Meta(extra={"secret": True})]


def flag(*names: str, value: str = "", common: bool = False, minus_one_is_none: bool = False) -> Meta:
    """A note about a setting's flag.

    Args:
        names: further names, beside the one that follows from the setting's.
        value: what the help calls its value, where the kind is not enough.
        common: whether ``--help`` shows it; ``--help-all`` shows all.
        minus_one_is_none: whether -1 means ``none``, as it does for Daphne's ``--websocket_timeout``.
    """
    notes: dict[str, Any] = {"aliases": names, "value": value, "common": common, "minus_one_is_none": minus_one_is_none}
    return Meta(extra={name: each for name, each in notes.items() if each})


def check(problem: Callable[[str], str], tidied: Callable[[str], str] | None = None) -> Meta:
    """A note about a setting's texts: what finds the problem of one, and what makes of one the form that is kept."""
    return Meta(extra={"problem": problem, "tidied": tidied})


class Kind(enum.Enum):
    """What a setting holds; the value is for people."""

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


#: What the notes of a setting may set, and the defaults.
_NOTES: Final[dict[str, Any]] = {
    "separator": ",", "secret": False, "live": False, "aliases": (), "value": "", "common": False,
    "minus_one_is_none": False, "problem": None, "tidied": None,
}  # fmt: skip

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
    #: Whether its value is never shown. It has no flag: every user of the machine can read command lines.
    secret: bool
    #: What `LIVE` and `flag` note.
    live: bool
    aliases: tuple[str, ...]
    value: str
    common: bool
    minus_one_is_none: bool
    #: What `check` notes.
    problem: Callable[[str], str] | None
    tidied: Callable[[str], str] | None
    #: Whether another section has a setting of that name. Then the flag begins with the section.
    shared: bool = False

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
    def flags(self) -> tuple[str, ...]:
        """The names of its own flag, in any command; none of a secret. A switch has ``--no-...`` as well.

        ``--keep-alive-timeout`` for ``front.keep_alive_timeout_s``; ``--front-drain-timeout`` where the workers have a
        setting of the same name.
        """
        if self.secret:
            return ()
        own = f"--{self.section}-{self.stem}" if self.shared else f"--{self.stem}"
        short = (name for name in self.aliases if not name.startswith("--"))
        return tuple(dict.fromkeys((*short, own, *self.aliases)))

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
        if self.problem is not None:
            for text in value if self.many else (value,):
                if problem := self.problem(text):
                    raise ConfigurationError(f"{self.path}: {'' if self.secret else f'{text!r}: '}{problem}")

    def tidy(self, value: Any) -> Any:
        """`value` in the form that is kept."""
        if self.tidied is None or value is None:
            return value
        return tuple(map(self.tidied, value)) if self.many else self.tidied(value)


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
                **_NOTES | extra,
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
