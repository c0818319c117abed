"""What a worker runs instead of an application that cannot be loaded: it answers with the error; for development."""

from __future__ import annotations

import html
import importlib
from traceback import FrameSummary, StackSummary, TracebackException
from typing import Final

from ifserver import headers
from ifserver.worker import application
from ifserver.worker.application import Receive, Scope, Send

__all__ = ["LoadErrorPage"]

#: The longest text of an error that is shown. The end says most, so the rest is cut.
_TEXT_CHARACTERS: Final = 16_384
_HINT: Final = "The application is loaded again as soon as a watched file changes (--reload)."
_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; }}
pre {{ background: #f4f4f4; border-left: 4px solid #c00; overflow-x: auto; padding: 1rem; font-size: 14px; }}
</style>
</head>
<body>
<h1>{title}</h1>
<pre>{text}</pre>
<p>{hint}</p>
</body>
</html>
"""


class LoadErrorPage:
    """The ASGI application that answers every request with status 500 and an error.

    Browsers get a page, others plain text.

    Args:
        title: what has failed, in one line.
        text: the error in full, as people read it: with its traceback.
    """

    def __init__(self, title: str, text: str) -> None:
        self.title = title
        self.text = text if len(text) <= _TEXT_CHARACTERS else f"[...]{text[-_TEXT_CHARACTERS:]}"

    @classmethod
    def not_loaded(cls, error: BaseException) -> LoadErrorPage:
        """For what `ifserver.worker.application.load` has raised."""
        cause = error.__cause__
        return cls("The application cannot be loaded", str(error) if cause is None else f"{error}\n\n{_told(cause)}")

    @classmethod
    def not_started(cls, error: BaseException) -> LoadErrorPage:
        """For an application whose lifespan says that it cannot start."""
        return cls("The application's startup failed", str(error).strip())

    def __str__(self) -> str:
        separator = "\n" if "\n" in self.text else " "
        return f"{self.title}:{separator}{self.text}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        is_http = scope["type"] == "http"
        as_page = is_http and any(b"text/html" in value for value in headers.values(scope["headers"], b"accept"))
        kind = "html" if as_page else "plain"
        body = self._page() if as_page else f"{self.title}\n\n{self.text}\n\n{_HINT}\n"
        prefix = "http.response" if is_http else "websocket.http.response"
        fields = [(b"content-type", f"text/{kind}; charset=utf-8".encode()), (b"cache-control", b"no-store")]
        await send({"type": f"{prefix}.start", "status": 500, "headers": fields})
        await send({"type": f"{prefix}.body", "body": body.encode("utf-8", "backslashreplace")})

    def _page(self) -> str:
        title, text, hint = map(html.escape, (self.title, self.text, _HINT))
        return _PAGE.format(title=title, text=text, hint=hint)


def _told(error: BaseException) -> str:
    """The traceback, without the frames of those who imported the application: they are ours and Python's."""
    told = TracebackException.from_exception(error)
    rest: list[TracebackException | None] = [told]
    while rest:
        each = rest.pop()
        if each is not None:
            frames = [frame for frame in each.stack if not _is_import(frame)]
            # None: there is no traceback to be shown.
            each.stack = StackSummary.from_list(frames) if frames else None  # type: ignore[assignment]
            rest += (each.__cause__, each.__context__)
    return "".join(told.format()).rstrip()


def _is_import(frame: FrameSummary) -> bool:
    return frame.filename.startswith("<frozen importlib") or frame.filename in (
        application.__file__,
        importlib.__file__,
    )
