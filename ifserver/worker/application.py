"""Finding the application: ``module:attribute`` to something that can be called, or one line with the reason why not.

It may also be a factory: something that is called without arguments, and returns the application. For development there
is `LoadErrorPage`, which shows why there is no application.
"""

from __future__ import annotations

import contextlib
import html
import importlib
import inspect
import logging
import os
import sys
from pathlib import Path
from traceback import FrameSummary, StackSummary, TracebackException, walk_tb
from typing import Any, Final

import ifserver
from ifserver import headers
from ifserver.asgi_events import ASGIApplication, Receive, Scope, Send
from ifserver.config.checks import parse_application
from ifserver.config.env_file import parse_env
from ifserver.config.settings import WorkerSettings
from ifserver.errors import ConfigurationError

__all__ = ["LoadErrorPage", "import_failed", "load", "load_for"]

#: Longer texts of exceptions are cut: the whole answer must fit a line, and a pipe's buffer.
_TEXT_CHARACTERS = 400
#: How many arguments an application takes, by ``worker.interface``.
_ARGUMENTS: Final = {"asgi": (3,), "wsgi": (2,), "auto": (3, 2)}

#: What others have written: beginnings of files' names, and folders. Their lines help little.
_FOREIGN: Final = (f"{Path(os.__file__).parent}/", f"{Path(ifserver.__file__).parent}/", "<")
_INSTALLED: Final = frozenset(("site-packages", "dist-packages"))

#: The longest text of an error that a page shows. The end matters most, so the rest is cut.
_PAGE_CHARACTERS: Final = 16_384
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

_log = logging.getLogger(__name__)


def load_for(settings: WorkerSettings) -> ASGIApplication:
    """The application of a worker, imported with the variables of its ``env_file`` in the environment.

    Variables that exist already keep their values.

    Raises:
        ConfigurationError: as `load`; or the file cannot be read, or is none; or, with ``reload``, the URLconf of a
            Django project cannot be imported.
    """
    if settings.env_file is not None:
        try:
            text = Path(settings.env_file).read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not UTF-8"
            raise ConfigurationError(f"worker.env_file: {settings.env_file!r}: {why}") from error
        for name, value in parse_env(text, settings.env_file).items():
            os.environ.setdefault(name, value)
    application = load(settings.application, settings.app_dir, settings.interface, settings.factory)
    if settings.reload:
        _load_urls(settings.application)
    return application


def load(application: str, app_dir: str, interface: str = "auto", factory: bool = False) -> ASGIApplication:
    """Import the application that ``module:attribute`` names, with the folder `app_dir` first on ``sys.path``.

    ``module:attribute()`` marks a factory, as gunicorn has it.

    Args:
        interface: ``worker.interface``.
        factory: whether it must be a factory. Otherwise it is called as one where its parameters show that it is.

    Raises:
        ConfigurationError: it cannot be; the text is one line. What the import or the factory raised is its
            ``__cause__``.
    """
    module_name, attribute = parse_application(application)
    folder = _enter(app_dir)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigurationError(f"application {application!r}: {error} (looked in {folder} first)") from error
        raise import_failed(f"application {application!r}", error) from error
    except BaseException as error:  # it may even exit
        raise import_failed(f"application {application!r}", error) from error
    for position, part in enumerate(parts := attribute.split(".")):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            owner = ".".join([module_name, *parts[:position]])
            raise ConfigurationError(f"application {application!r}: {owner} has no attribute {part!r}") from error
    if not callable(found):
        raise ConfigurationError(f"application {application!r}: not callable, but of type {type(found).__name__}")
    return _made(application, found, interface, factory or application.endswith("()"))  # type: ignore[no-any-return]


def _made(application: str, found: Any, interface: str, factory: bool) -> Any:
    """`found`, or the application that it returns where it is a factory."""
    if not factory and not _is_factory(found):
        if _is_application(found, interface):
            return found
        raise ConfigurationError(f"application {application!r}: {_neither(found, interface)}")
    if not _takes(found, 0):
        how = "()" if application.endswith("()") else "--factory"
        raise ConfigurationError(
            f"application {application!r}: it needs arguments, so it is no factory; without {how} it is the "
            "application itself"
        )
    try:
        made = found()
    except ConfigurationError:
        raise  # it is one of ours (`ifserver.django.serving`), and complete
    except BaseException as error:  # it may even exit
        raise import_failed(f"application {application!r}", error) from error
    if not factory:
        _log.debug("application %r is a factory, and was called", application)
    if inspect.iscoroutine(made):
        made.close()
        raise ConfigurationError(f"application {application!r}: a factory cannot be an async function")
    if not callable(made) or not _is_application(made, interface):
        raise ConfigurationError(
            f"application {application!r}: called as a factory, it has returned no application, but an object of type "
            f"{type(made).__name__}"
        )
    return made


def _neither(found: Any, interface: str) -> str:
    """Why `found` is neither an application nor a factory."""
    if _takes(found, 1):
        return "it takes one argument: applications of ASGI 2 need asgiref.compatibility.guarantee_single_callable"
    if interface != "auto" and _is_application(found, "auto"):
        return f"its parameters are not those of {interface.upper()}, which worker.interface asks for"
    return (
        "its parameters are those of no ASGI application (scope, receive, send), no WSGI application (environ, "
        "start_response), and no factory (none)"
    )


def _is_application(found: Any, interface: str) -> bool:
    return any(_takes(found, count) for count in _ARGUMENTS[interface])


def _is_factory(found: Any) -> bool:
    """Whether it must be meant to be called without arguments: each parameter that it has is named, and optional.

    ``*args`` may stand for anything, and an async function that takes three arguments is an application.
    """
    signatures = _signatures(found)
    if not signatures or (inspect.iscoroutinefunction(found) and _takes(found, 3)):
        return False
    optional = all(_fits(signature, 0) for signature in signatures)
    return optional and not any(each.kind is each.VAR_POSITIONAL for each in signatures[0].parameters.values())


def _takes(found: Any, count: int) -> bool:
    """Whether it can be called with so many arguments; True where that cannot be seen."""
    signatures = _signatures(found)
    return not signatures or any(_fits(signature, count) for signature in signatures)


def _signatures(found: Any) -> list[inspect.Signature]:
    """Its signature, and without ``functools.wraps``: a decorator may take other arguments than what it decorates."""
    signatures = []
    for as_wrapped in (True, False):
        with contextlib.suppress(TypeError, ValueError):
            signatures.append(inspect.signature(found, follow_wrapped=as_wrapped))
    return signatures


def _fits(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*(None,) * count)
    except TypeError:
        return False
    return True


def _load_urls(application: str) -> None:
    """Import the URLconf, and with it the views, if Django is set up.

    Django does so with the first request. Its error page needs the URLconf itself, so that clients would learn nothing
    of an error in there.
    """
    registry: Any = sys.modules.get("django.apps")
    if registry is None or not registry.apps.ready:
        return
    if getattr(importlib.import_module("django.conf").settings, "ROOT_URLCONF", None) is None:
        return
    try:
        _ = importlib.import_module("django.urls").get_resolver().url_patterns
    except BaseException as error:  # it may even exit
        raise import_failed(f"application {application!r}", error) from error


def _enter(app_dir: str) -> str:
    folder = str(Path(app_dir).resolve())
    if not os.path.isdir(folder):
        raise ConfigurationError(f"worker.app_dir: no such folder: {folder}")
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    return folder


def import_failed(subject: str, error: BaseException) -> ConfigurationError:
    """The error, in one line, for something whose import has raised `error`, which is to be its cause."""
    text = _one_line(str(error))
    what = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return ConfigurationError(f"{subject}: {what} ({_where(error)})")


def _where(error: BaseException) -> str:
    """``file:line`` of the innermost frame in code that is the user's own, or of the syntax error itself.

    If there is none, that of the innermost frame that is no part of the import system.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    own, where = "", "while importing it"
    for frame, line in walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        if not name.startswith("<frozen importlib") and name not in (__file__, importlib.__file__):
            where = f"{name}:{line}"
            if not name.startswith(_FOREIGN) and not _INSTALLED & set(Path(name).parts):
                own = where
    return own or where


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TEXT_CHARACTERS else f"{line[:_TEXT_CHARACTERS]}..."


class LoadErrorPage:
    """What a worker runs instead of an application that cannot be loaded: it answers with status 500 and the error.

    Browsers get a page, others plain text.

    Args:
        title: what has failed, in one line.
        text: the error in full, as people read it: with its traceback.
    """

    def __init__(self, title: str, text: str) -> None:
        self.title = title
        self.text = text if len(text) <= _PAGE_CHARACTERS else f"[...]{text[-_PAGE_CHARACTERS:]}"

    @classmethod
    def not_loaded(cls, error: BaseException) -> LoadErrorPage:
        """For what `load` has raised."""
        cause = error.__cause__
        return cls(
            "The application cannot be loaded", str(error) if cause is None else f"{error}\n\n{_traceback(cause)}"
        )

    @classmethod
    def not_started(cls, error: BaseException) -> LoadErrorPage:
        """For an application whose lifespan has failed to start."""
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


def _traceback(error: BaseException) -> str:
    """The traceback, without the frames of those who imported the application: they are ours and Python's."""
    report = TracebackException.from_exception(error)
    rest: list[TracebackException | None] = [report]
    while rest:
        each = rest.pop()
        if each is not None:
            frames = [frame for frame in each.stack if not _is_import(frame)]
            # None: there is no traceback to be shown.
            each.stack = StackSummary.from_list(frames) if frames else None  # type: ignore[assignment]
            rest += (each.__cause__, each.__context__)
    return "".join(report.format()).rstrip()


def _is_import(frame: FrameSummary) -> bool:
    return frame.filename.startswith("<frozen importlib") or frame.filename in (
        __file__,
        importlib.__file__,
    )
