"""FastAPI: JSON, a WebSocket, server-sent events, an upload, and what the lifespan hands to every request.

    pip install fastapi python-multipart
    ifserver run fastapi_app:app --app-dir examples

``/docs`` describes the HTTP part. Nothing is kept in memory from one request to the next, save what the lifespan made:
each of the worker processes has its own, and the next request may well meet another one.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, TypedDict

from fastapi import FastAPI, Query, Request, UploadFile, WebSocket, WebSocketDisconnect
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.status import WS_1008_POLICY_VIOLATION

__all__ = ["app"]

UPLOAD_CHUNK_BYTES = 64 * 1024
TICK_SECONDS = 0.5
WHOLE_NUMBER = TypeAdapter(int)


class State(TypedDict):
    """Made once in each worker process; a request finds it as ``request.state``."""

    started: float  # time.monotonic()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[State]:
    yield {"started": time.monotonic()}


app = FastAPI(title="FastAPI behind ifserver", lifespan=lifespan)


class Worker(BaseModel):
    pid: int
    uptime_seconds: float


class Line(BaseModel):
    name: str = Field(min_length=1, max_length=100)
    price: Decimal = Field(ge=0, decimal_places=2)
    quantity: int = Field(default=1, gt=0)


class Order(BaseModel):
    lines: list[Line] = Field(min_length=1, max_length=100)


class Receipt(BaseModel):
    items: int
    total: Decimal


class Uploaded(BaseModel):
    name: str | None
    size_bytes: int
    sha256: str


@app.get("/")
async def worker(request: Request) -> Worker:
    """Which worker process answered, and for how long it has been up."""
    return Worker(pid=os.getpid(), uptime_seconds=time.monotonic() - request.state.started)


@app.post("/receipts", status_code=201)
async def make_receipt(order: Order) -> Receipt:
    return Receipt(
        items=sum(line.quantity for line in order.lines),
        total=sum((line.price * line.quantity for line in order.lines), Decimal()),
    )


@app.post("/upload")
async def upload(file: UploadFile) -> Uploaded:
    digest = hashlib.sha256()
    size = 0
    while chunk := await file.read(UPLOAD_CHUNK_BYTES):
        digest.update(chunk)
        size += len(chunk)
    return Uploaded(name=file.filename, size_bytes=size, sha256=digest.hexdigest())


@app.get("/events", response_class=EventSourceResponse)
async def events(count: Annotated[int, Query(ge=1, le=100)] = 10) -> AsyncIterator[ServerSentEvent]:
    """The time, ``count`` times, twice a second."""
    for number in range(count):
        yield ServerSentEvent(event="time", id=str(number), data={"now": datetime.now(UTC)})
        await asyncio.sleep(TICK_SECONDS)


@app.websocket("/ws")
async def running_total(websocket: WebSocket) -> None:
    """Add up the whole numbers that the client sends, and answer each with the total so far."""
    await websocket.accept()
    total = 0
    with suppress(WebSocketDisconnect):
        while True:
            try:
                total += WHOLE_NUMBER.validate_json(await websocket.receive_text())
            except ValidationError:
                await websocket.close(WS_1008_POLICY_VIOLATION, "not a whole number")
                return
            await websocket.send_json({"total": total})
