"""What is to be published, as it stands in the body of a request (docs/howto/groups.rst). Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from ifserver.asgi_events import checked_close
from ifserver.errors import ApplicationError

__all__ = ["Publication", "parse", "reached", "written"]

_CHARSET: Final = re.compile(r';\s*charset\s*=\s*"?([^\s";]*)', re.IGNORECASE)


class Publication(NamedTuple):
    """What is published in a group: one of `text`, `data` and `close` is not None."""

    text: str | None = None
    data: bytes | None = None
    close: tuple[int, str] | None = None
    exclude: str = ""


class _Body(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A body in JSON: one of the first four, and whom to leave out."""

    text: str | UnsetType = UNSET
    json: Raw = Raw()
    base64: bytes | UnsetType = UNSET
    close: int | tuple[int, str] | UnsetType = UNSET
    exclude: str = ""


_decode = msgspec.json.Decoder(_Body).decode


def parse(content_type: str, body: bytes) -> Publication:
    """What `body` asks to publish.

    ``application/json`` is an object as `_Body` has it. Anything else is the message itself: of ``text/...`` a text in
    UTF-8, of other types bytes.

    Raises:
        ValueError: it holds nothing that can be published; the text has the reason, in one line.
    """
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            return _of_json(_decode(body))
        if not kind.startswith("text/"):
            return Publication(data=body)
        charset = _CHARSET.search(content_type)
        if charset is not None and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
            raise ValueError(f"a text must be in UTF-8, not in {charset[1]}")
        return Publication(text=body.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ValueError("JSON is nested too deeply") from None
    except ApplicationError as error:
        raise ValueError(f"close: {str(error).removeprefix('websocket.close: ')}") from None


def written(publication: Publication) -> bytes:
    """The body, in JSON, of which `parse` makes this."""
    text, data, close, exclude = publication
    return msgspec.json.encode(
        _Body(
            text=UNSET if text is None else text,
            base64=UNSET if data is None else data,
            close=UNSET if close is None else close,
            exclude=exclude,
        )
    )


def reached(processes: int) -> str:
    """To how many processes something went, for people."""
    if not processes:
        return "nobody is there"
    return f"published to {processes} process{'es' if processes > 1 else ''}"


def _of_json(body: _Body) -> Publication:
    json = bytes(body.json)
    given = [body.text is not UNSET, bool(json), body.base64 is not UNSET, body.close is not UNSET]
    if given.count(True) != 1:
        raise ValueError('exactly one of "text", "json", "base64" and "close" must be given')
    if json:
        # As it was written, but without white space: numbers keep all their digits.
        return Publication(text=msgspec.json.format(json, indent=-1).decode(), exclude=body.exclude)
    if not isinstance(body.text, UnsetType):
        return Publication(text=body.text, exclude=body.exclude)
    if not isinstance(body.base64, UnsetType):
        return Publication(data=body.base64, exclude=body.exclude)
    code, reason = body.close if isinstance(body.close, tuple) else (body.close, "")
    return Publication(close=checked_close(code, reason), exclude=body.exclude)
