"""One request of a WSGI application (PEP 3333), which runs in one thread from its start to its end.

A request's body is read before a thread is used, as Django's own ASGI handler does it, so clients that send slowly hold
no threads; with ``stream_uploads`` it is read while it comes, and only its thread waits for it.

What the thread sends goes through a short queue: while the event loop sends one piece, the application makes the next.
Where the queue is full the thread waits for the client, for a second in all, and longer for one that takes 4 MiB a
second. Then the rest of the response goes into a temporary file (`ifserver.worker.files.Overflow`), from which the loop
sends it, and the thread is free when the application has returned. Where there is no room for the file, it waits on.

A slot is a thread: it is in use from the request until the application has returned.

A file, of ``wsgi.file_wrapper`` or named in a header, is sent by the event loop: by asking the server to do it, or by
reading it. The thread opens it, hands over the descriptor and waits for nothing.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections import deque
from typing import IO, Any, Final

from ifserver.errors import ClientDisconnected
from ifserver.flow_control import PIECE_BYTES
from ifserver.messages import STOPPED, HttpRequest, ToApplication
from ifserver.worker.asgi_http import HttpStream
from ifserver.worker.asgi_stream import Host
from ifserver.worker.files import Overflow, Source, source_of
from ifserver.worker.response import Response
from ifserver.worker.stream_phases import DONE, HELD, LOST, OVER, Phase
from ifserver.worker.wsgi import WSGIAdapter
from ifserver.worker.wsgi_environ import environ_of
from ifserver.worker.wsgi_exchange import Exchange
from ifserver.worker.wsgi_input import Input, whole_body

__all__ = ["ThreadedStream"]

_log = logging.getLogger(__name__)

#: A thread waits while so much of its response is unsent, in bytes, and until no more is left than one piece.
_UNSENT_BYTES: Final = 2 * PIECE_BYTES
#: What is made in one piece goes into the queue as it is, up to this; what is longer is cut.
_PART_BYTES: Final = 1024 * 1024
#: Of a client that takes so much, in bytes per second, a thread waits for all that it makes.
_FAST_BYTES_PER_S: Final = 4 * 1024 * 1024
#: When one that waits looks again whether there is room for a file, in seconds.
_LOOK_AGAIN_S: Final = 1.0


class ThreadedStream(HttpStream):
    """One request of a `WSGIAdapter`. Its slot is its thread, which it holds until the application has returned.

    So it counts as `answering` only from then on: a worker all of whose threads are busy takes no more requests.

    What the thread sets it sets before it tells the loop, and the loop only reads it.
    """

    __slots__ = (
        "_adapter",
        "_error",
        "_file",
        "_finished",
        "_has_warned",
        "_input",
        "_made",
        "_overflow",
        "_parts",
        "_patience_s",
        "_pieces",
        "_rest",
        "_returned",
        "_room",
        "_sent",
        "_unread",
        "_whole",
    )

    def __init__(self, host: Host, request: HttpRequest, server: str, identity: str, slot: int) -> None:
        super().__init__(host, request, server, identity, slot)
        adapter = host.application
        assert isinstance(adapter, WSGIAdapter)
        self._adapter = adapter
        self._input: IO[bytes] | None = None
        # Set by the thread: what it has made of the body, in bytes as well, and whether that is all; whether the
        # application has returned, and what it has raised.
        self._pieces: deque[bytes] = deque()
        self._made = 0
        self._whole = self._returned = False
        self._error: BaseException | None = None
        #: A file to be sent as the whole body, and who has named it. The loop takes it, and closes it.
        self._file: tuple[str, Source] | None = None
        #: On what the thread sleeps while too much is unsent; how long it may still do so, in seconds, beside what the
        #: client has earned (`_FAST_BYTES_PER_S`); and what follows the pieces, once it has waited so long.
        self._room: list[threading.Lock] = []
        self._patience_s = adapter.patience_s
        self._overflow: Overflow | None = None
        self._has_warned = False
        # Set by the loop: bytes that were sent; what was taken and must wait for credit; whether all is done.
        self._sent = 0
        self._rest: Any = b""
        self._finished = False
        #: Where the application reads a body that has not come whole; and, set by the thread, the sizes of what it has
        #: taken there, of which the server does not know.
        self._unread: Input | None = None
        self._parts: deque[int] = deque()

    def start(self) -> None:
        if self._more_body and not self._adapter.stream_uploads:
            self.task = self._host.loop.create_task(self._collect())
            return
        (body,) = self._arrivals
        self._arrivals = []
        if self._more_body:
            self._unread = Input(self._has_read)
            self._unread.feed(body, more=True)
            self._input = io.BufferedReader(self._unread)
        else:
            self._window_in.consume(len(body))
            self._input = io.BytesIO(body)
        self._submit()

    def _submit(self) -> None:
        """Have the application run in a thread."""
        try:
            self._adapter.threads.submit(self)
        except RuntimeError as error:
            # Not at once: whoever starts a stream still has it in hand.
            self._host.loop.call_soon(self._not_started, error)

    def _not_started(self, error: RuntimeError) -> None:
        assert self._input is not None
        self._input.close()
        self._returned = True
        if self.phase not in OVER:
            _log.error("%s: answering 500: no thread can be started: %s", self, error, extra=self._about)
            self.break_off()
        self.look()

    async def _collect(self) -> None:
        """Wait for the request's body, then go on in a thread."""
        try:
            self._input = await whole_body(self.receive)
        except GeneratorExit:
            raise  # the interpreter ends
        except BaseException as error:
            self._error = error
        self.task = None
        if self._input is not None:
            self._submit()
        else:
            self._returned = True
            self.look()

    # In the thread.

    def work(self) -> None:
        """Run the application."""
        assert self._input is not None
        try:
            with self._input:
                # Nothing is begun for a client that has left meanwhile.
                if self.phase is not LOST:
                    environ = environ_of(self._request)
                    environ["wsgi.input"] = self._input
                    if "HTTP_TRANSFER_ENCODING" in environ and self._unread is None:
                        # RFC 3875 4.1.2: its size once transfer codings are removed. Django reads as much and no more.
                        environ["CONTENT_LENGTH"] = str(self._input.seek(0, io.SEEK_END))
                        self._input.seek(0)
                    if self._adapter.around is None:
                        Exchange(self).run(self._adapter.application, environ)
                    else:
                        with self._adapter.around(self):
                            Exchange(self).run(self._adapter.application, environ)
        except BaseException as error:
            self._error = error
        self._returned = True
        self._adapter.threads.tell(self, self._host.loop)

    def respond(self, status: int, headers: list[tuple[bytes, bytes]]) -> Response:
        """A response, of which nothing is sent.

        Raises:
            ApplicationError: it breaks a rule.
        """
        event = {"type": "start_response()", "status": status, "headers": headers}
        return Response(self, event, self._host.file_header, self._request.method == "HEAD")

    def put(self, response: Response, piece: bytes, last: bool) -> None:
        """Send some of a response's body, with `last` all that there is. Waits while too much is unsent.

        Raises:
            ApplicationError: the file that a header names in place of the body cannot be read.
            ClientDisconnected: the client has left.
        """
        self._check_client()
        if response.file_path is not None:
            # What the application sends beside the path of a file is for nobody.
            if last:
                name = self._host.file_header
                assert name is not None
                self._hand_over(response, name.decode(), response.open_named(name))
            return
        self._response = response
        if not response.bodyless:
            is_next = self._overflow is None or not self._overflow.due
            if self._made - self._sent < _UNSENT_BYTES and len(piece) <= _PART_BYTES and is_next:
                self._pieces.append(piece)
                self._made += len(piece)
            else:
                self._put_slowly(memoryview(piece))
        self._whole = last
        self._adapter.threads.tell(self, self._host.loop)

    def put_file(self, response: Response, file: Any) -> bool:
        """Send what is left of an open file as the whole body, after the return. False: it must be read and `put`.

        Raises:
            ClientDisconnected: the client has left.
        """
        self._check_client()
        source = source_of(file)
        if source is None:
            return False
        count = source.count if response.remaining is None else response.remaining
        # What is one message in any case is read here, where nobody else waits for the disk.
        if count <= PIECE_BYTES and not response.bodyless:
            source.close()
            return False
        self._hand_over(response, "wsgi.file_wrapper", source)
        return True

    def _hand_over(self, response: Response, what: str, source: Source) -> None:
        self._response = response
        self._file = what, source
        self._adapter.threads.tell(self, self._host.loop)

    def _has_read(self, size: int) -> None:
        """The application has taken so many bytes of the request's body."""
        self._parts.append(size)
        self._adapter.threads.tell(self, self._host.loop)

    def _check_client(self) -> None:
        if self.phase is LOST:
            raise ClientDisconnected(f"the client has left ({self._request.reply_channel})")

    def _put_slowly(self, data: memoryview) -> None:
        """Send what is very long, or what the client does not take as fast as it is made."""
        while data:
            part = data[:_PART_BYTES]
            if self._made - self._sent < _UNSENT_BYTES and not self._is_overflowing:
                self._pieces.append(bytes(part))  # a view would keep all of it
            elif (patience := self._patience_s + self._sent / _FAST_BYTES_PER_S) > 0 or not self._put_aside(part):
                self._wait_for_room(patience if patience > 0 else _LOOK_AGAIN_S)
                continue
            self._made += len(part)
            data = data[_PART_BYTES:]
            self._adapter.threads.tell(self, self._host.loop)

    @property
    def _is_overflowing(self) -> bool:
        """Whether anything is in the file, so that all that comes must follow it there."""
        return self._overflow is not None and self._overflow.due > 0

    def _put_aside(self, part: memoryview) -> bool:
        """Put some of the body into the file. False: there is no room."""
        if self._overflow is None:
            self._overflow = Overflow(self._adapter.extents)
        try:
            self._overflow.put(part)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                text = "%s: a thread waits for its client, which reads slowly: %s (TMPDIR, --threads)"
                _log.warning(text, self, error.strerror, extra=self._about)
            return False
        return True

    @property
    def _has_room(self) -> bool:
        return self._made - self._sent <= PIECE_BYTES and not self._is_overflowing

    def _wait_for_room(self, seconds: float) -> None:
        """Wait until the client has taken nearly all, or so long."""
        room = threading.Lock()
        room.acquire()
        self._room[:] = [room]
        # The loop may have been faster, and then it wakes nobody.
        if not self._has_room and self.phase not in OVER:
            began = time.monotonic()
            room.acquire(timeout=seconds)
            self._patience_s -= time.monotonic() - began
        self._check_client()

    # In the event loop.

    def look(self) -> None:
        """Send what there is, and see whether the application has returned."""
        if self._finished:
            # A thread may hand over a file just when nobody waits for it any more.
            self._close_files()
            return
        returned = self._returned or self._cancelled  # of one that is cancelled the thread is left behind
        while self._parts:
            due = self._window_in.consume(self._parts.popleft())
            if due is not None and self.phase not in OVER:
                self._tell_window(due)
        if self.phase not in OVER:
            self._send_on()
        if self._room:
            self._make_room()
        if returned and self.task is None and (self.phase in OVER or (self._error is not None and not self._is_due)):
            self._finish()
        elif self._returned and not self.answering:
            # The client takes its time, and the next request has the thread.
            self.answering = True
            self._host.began()

    def _send_on(self) -> None:
        if self._file is not None:
            (what, source), self._file = self._file, None
            self.phase = HELD
            self.task = self._host.loop.create_task(self._send_file(what, source))
        if self.task is not None:
            return
        whole = self._whole  # before its pieces: one that comes meanwhile may be the last
        pieces, credit = self._pieces, self.credit
        while credit.open:
            rest = self._rest
            if not rest:
                # Before the pieces: if the thread adds some and goes on in the file meanwhile, they come first.
                due = 0 if self._overflow is None else self._overflow.due
                if pieces:
                    rest = pieces.popleft()
                    if pieces and len(rest) < PIECE_BYTES:
                        rest = self._with_next(rest)
                elif not due:
                    break
                else:
                    rest = self._taken_back(min(due, PIECE_BYTES))
                    if not rest:
                        return
            piece = rest
            if len(rest) > PIECE_BYTES:
                # Cut into views, which msgspec takes for bytes: each piece is copied when it is encoded anyway.
                rest = memoryview(rest)
                piece, self._rest = rest[:PIECE_BYTES], rest[PIECE_BYTES:]
            else:
                self._rest = b""
            self._sent += len(piece)
            self._response.send_piece(piece, not whole or bool(pieces) or bool(self._rest) or self._is_overflowing)
        if whole and self.phase is not DONE and not (pieces or self._rest or self._is_overflowing) and credit.open:
            self._response.send_piece(b"", more=False)

    def _taken_back(self, size: int) -> bytes:
        """The next bytes of the file; empty: they cannot be read, and the response is broken off."""
        assert self._overflow is not None
        try:
            return self._overflow.take(size)
        except OSError as error:
            self._ended(error)
            return b""

    async def _send_file(self, what: str, source: Source) -> None:
        """Send a file as the whole response."""
        try:
            if self.phase in OVER:
                source.close()  # the client has left before this first step
            else:
                await self._response.send_file(self, what, source)
        except GeneratorExit:
            raise  # the interpreter ends
        except BaseException as error:
            self._ended(error)
        self.task = None
        self.look()

    def _with_next(self, first: bytes) -> bytes:
        """As many of the pieces as make a full one."""
        taken, size = [first], len(first)
        while self._pieces and size < PIECE_BYTES:
            taken.append(self._pieces.popleft())
            size += len(taken[-1])
        return b"".join(taken)

    def _make_room(self) -> None:
        """Wake the thread, if it can go on."""
        if self._has_room or self.phase in OVER:
            while self._room:
                self._room.pop().release()

    @property
    def _is_due(self) -> bool:
        """Whether the client gets the rest: the response is whole, and what was raised behind it concerns nobody."""
        return self._whole and not self._cancelled

    def _finish(self) -> None:
        self._finished = True
        self._close_files()
        error, self._error = self._error, None
        if error is not None:
            self._ended(error)
        self._host.ended(self)

    def _close_files(self) -> None:
        if self._file is not None:
            self._file[1].close()
            self._file = None
        if self._overflow is not None and self._returned:
            self._overflow.close()

    def move(self, phase: Phase) -> None:
        self.phase = phase
        if phase is DONE:
            self.wake()
            if self._unread is not None:
                self._unread.cut()

    def arrived(self, message: ToApplication) -> str | None:
        reason = super().arrived(message)
        if self._unread is not None and self._arrivals:
            (piece,), self._arrivals = self._arrivals, []
            self._unread.feed(piece, self._more_body)
        return reason

    def consumed(self, total: int) -> None:
        if self.credit.update(total):
            self.wake()
            self.look()

    def drained(self) -> bool:
        # What a thread would be told is what `cancel` does.
        return False

    def cancel(self) -> None:
        if self.task is not None:
            super().cancel()
        elif not self._finished:
            # No thread can be stopped. It is left behind, and finds that its client has left.
            self._cancelled = True
            self.release(STOPPED)
            self._finish()

    def _end(self, code: int, reason: str) -> None:
        super()._end(code, reason)
        self._make_room()
        if self._unread is not None:
            self._unread.cut()
        if self._returned:
            # Nobody waits for credit any more. Not at once: whoever ends a stream still has it in hand.
            self._host.loop.call_soon(self.look)
