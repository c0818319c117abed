"""Applications that answer with files: as Starlette sends them, and by WSGI."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles


async def pid(request: Request) -> Response:
    return PlainTextResponse(str(os.getpid()))


async def file(request: Request) -> Response:
    """The file at ``?path=``."""
    return FileResponse(request.query_params["path"])


async def temporary(request: Request) -> Response:
    """A file of ``?size=`` zeros that is deleted once it has been sent, as the application sees it."""
    fd, path = tempfile.mkstemp()
    os.truncate(fd, int(request.query_params["size"]))
    os.close(fd)
    return FileResponse(path, background=BackgroundTask(os.unlink, path))


async def named(request: Request) -> Response:
    """The file at ``?path=``, named in a header."""
    return Response("not this", headers={"X-Sendfile": request.query_params["path"]}, media_type="text/x-file")


app = Starlette(
    routes=[Route("/", pid), Route("/file.zip", file), Route("/temporary.zip", temporary), Route("/named", named)]
)
#: The files of a folder, as many a site has them.
static = GZipMiddleware(StaticFiles(directory=os.environ.get("STATIC", "."), check_dir=False))


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The file at ``?path=``, from byte ``from=`` on."""
    query = parse_qs(environ["QUERY_STRING"])
    path, offset = query["path"][0], int(query.get("from", ["0"])[0])
    start_response("200 OK", [("Content-Length", str(os.path.getsize(path) - offset))])
    file = open(path, "rb")  # noqa: SIM115 (whoever sends it closes it)
    file.seek(offset)
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
    return wrapped
