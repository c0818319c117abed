"""ASGI's types, and what an application may send: checks of the values in its events, each with the rule it keeps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeAlias

from ifserver.errors import ApplicationError
from ifserver.headers import LENGTH_DIGITS, bad_in_value, is_token, is_value
from ifserver.messages import Headers

__all__ = [
    "BODYLESS_STATUSES",
    "ASGIApplication",
    "Event",
    "Receive",
    "Scope",
    "Send",
    "as_bytes",
    "checked_close",
    "checked_headers",
    "checked_message",
    "checked_text",
]

Scope: TypeAlias = dict[str, Any]
Event: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
ASGIApplication: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

#: RFC 9110 6.4.1 and 15.3.6: a response with one of these has no content. So has one to HEAD.
BODYLESS_STATUSES: Final = frozenset({204, 205, 304})

#: Names that have passed the check, as they came -> in lower case. Bounded, since an application may make names up.
_names: dict[bytes, bytes] = {}
_MAX_NAMES: Final = 1000
#: RFC 6455 7.4.1 and the IANA registry: what an endpoint may put into a Close frame. 1005, 1006 and 1015 never are.
_CLOSE_CODES: Final = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})
#: RFC 6455 5.5: a control frame holds 125 bytes, of which the code takes two.
_MAX_REASON_BYTES: Final = 123


def checked_headers(kind: str, headers: Iterable[Any]) -> tuple[Headers, int | None]:
    """The headers as they are sent, names in lower case, and the value of ``content-length`` where there is one.

    Accepts any iterable of pairs of bytes-like things. ``transfer-encoding`` is left out: www.rst, "Response Start":
    "You may send a Transfer-Encoding header in this message, but the server must ignore it".

    Raises:
        ApplicationError: a name is no token, a value holds a control but the tab, or something is no bytes at all.
    """
    result: Headers = []
    size: int | None = None
    try:
        for name, value in headers:
            if type(name) is not bytes or type(value) is not bytes:
                name, value = as_bytes(kind, "a header's name", name), as_bytes(kind, "a header's value", value)
            lowered = _names.get(name) or _checked_name(kind, name)
            # RFC 9110 5.5: CR and LF would make a second header, or a second response, of what follows.
            if bad_in_value(value) is not None:
                # Not the value itself, which may be a cookie's: this is for a log.
                where, found = next((i, byte) for i, byte in enumerate(value) if not is_value(value[i : i + 1]))
                raise ApplicationError(
                    f"{kind}: the value of header {name!r} holds the control {found:#04x} at {where}"
                )
            if lowered == b"content-length":
                # `headers.length`, without a call: nearly every response has one.
                before, size = size, int(value) if value.isdigit() and len(value) <= LENGTH_DIGITS else None
                if size is None or (before is not None and size != before):
                    raise ApplicationError(f"{kind}: content-length must be one number, got {value[:80]!r}")
                if before is not None:
                    continue  # RFC 9110 8.6: sent once, also where it was given twice
            elif lowered == b"transfer-encoding":
                continue
            result.append((lowered, value))
    except (TypeError, ValueError) as error:
        raise ApplicationError(f"{kind}: headers must be an iterable of pairs of bytes ({error})") from error
    return result, size


def checked_close(code: Any, reason: Any) -> tuple[int, str]:
    """Code and reason of a Close frame, with the defaults of www.rst, "Close"."""
    kind = "websocket.close"
    if code is None:
        code = 1000
    if not isinstance(code, int) or (code not in _CLOSE_CODES and not 3000 <= code <= 4999):
        raise ApplicationError(
            f"{kind}: code must be one of 1000-1003, 1007-1014, 3000-4999 (RFC 6455 7.4), got {code!r}"
        )
    reason, size = checked_text(kind, "reason", reason or "")
    if size > _MAX_REASON_BYTES:
        raise ApplicationError(f"{kind}: reason must have at most {_MAX_REASON_BYTES} bytes in UTF-8 (RFC 6455 5.5)")
    return int(code), reason


def checked_message(event: dict[str, Any], limit: int) -> tuple[str | None, bytes | None]:
    """Text and data of a ``websocket.send``, of which exactly one is not None.

    Args:
        limit: bytes that either may have, a text in UTF-8.
    """
    kind = "websocket.send"
    text, data = event.get("text"), event.get("bytes")
    if (text is None) is (data is None):
        raise ApplicationError(f"{kind}: exactly one of 'bytes' and 'text' must be given and not None")
    if type(text) is str and text.isascii():
        size = len(text)  # as most are
    elif text is not None:
        text, size = checked_text(kind, "text", text)
    else:
        if type(data) is not bytes:
            data = as_bytes(kind, "bytes", data)
        size = len(data)
    if size > limit:
        raise ApplicationError(
            f"{kind}: a message of {size} bytes, at most {limit} are allowed (worker.max_websocket_message_bytes)"
        )
    return text, data


def checked_text(kind: str, key: str, value: Any) -> tuple[str, int]:
    """A text that UTF-8 can express, and how many bytes it then has."""
    if type(value) is not str:
        if not isinstance(value, str):
            raise ApplicationError(f"{kind}: {key} must be a str, got {type(value).__name__}")
        # Django's templates give a SafeString, which `str()` leaves as it is and msgspec does not encode.
        value = str.__str__(value)
    if value.isascii():
        return value, len(value)
    try:
        return value, len(value.encode())
    except UnicodeEncodeError as error:
        raise ApplicationError(f"{kind}: {key} cannot be encoded: {error}") from error


def as_bytes(kind: str, key: str, value: Any) -> bytes:
    """`value` as bytes, if it is bytes-like."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise ApplicationError(f"{kind}: {key} must be bytes, got {type(value).__name__} {str(value)[:80]!r}")


def _checked_name(kind: str, name: bytes) -> bytes:
    if not is_token(name):
        raise ApplicationError(f"{kind}: not a header's name: {name[:80]!r} (RFC 9110 5.6.2: a token)")
    lowered = name.lower()
    if len(_names) < _MAX_NAMES:
        _names[name] = lowered
    return lowered
