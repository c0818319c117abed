"""An application that answers with files, as Starlette sends them."""

from __future__ import annotations

import os
import tempfile

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route


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


app = Starlette(routes=[Route("/", pid), Route("/file", file), Route("/temporary", temporary), Route("/named", named)])
