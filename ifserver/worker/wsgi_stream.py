"""One request of a WSGI application (PEP 3333), which runs in one thread from its start to its end.

A request's body is read before a thread is used, as Django's own ASGI handler does it, so clients that send slowly hold
no threads; with ``stream_uploads`` it is read while it comes, and only its thread waits for it. Clients that read
slowly hold none either, as long as there is room for temporary files (`ifserver.worker.wsgi_bodies`).

A slot is a thread: it is in use from the request until the application has returned.

A file, of ``wsgi.file_wrapper`` or named in a header, is sent by the event loop: by asking the server to do it, or by
reading it. The thread opens it, hands over the descriptor and waits for nothing.
"""

from __future__ import annotations

import io
import logging
from functools import partial
from typing import IO, TYPE_CHECKING, Final

from ifserver.errors import ClientDisconnected
from ifserver.messages import STOPPED, HttpRequest, ToApplication
from ifserver.worker.asgi_http import HttpStream
from ifserver.worker.files import Source
from ifserver.worker.response import Response
from ifserver.worker.stream import DONE, HELD, LOST, OVER, Phase, about_stream, conclude
from ifserver.worker.wsgi import WSGIAdapter
from ifserver.worker.wsgi_bodies import Input, Output, whole_body
from ifserver.worker.wsgi_call import Exchange, environ_of

if TYPE_CHECKING:
    from ifserver.worker.worker import Worker

__all__ = ["ThreadedStream"]

_log = logging.getLogger(__name__)


class ThreadedStream(HttpStream):
    """One request of a `WSGIAdapter`. Its slot is its thread, which it holds until the application has returned.

    So it counts as `answering` only from then on: a worker all of whose threads are busy takes no more requests.

    What the thread sets it sets before it notifies the loop, and the loop only reads it.
    """

    __slots__ = (
        "_adapter",
        "_error",
        "_file",
        "_finished",
        "_input",
        "_returned",
        "_unread",
        "notify",
        "output",
    )

    def __init__(self, host: Worker, request: HttpRequest, server: str, identity: str, slot: int) -> None:
        super().__init__(host, request, server, identity, slot)
        adapter = host.application
        assert isinstance(adapter, WSGIAdapter)
        self._adapter = adapter
        #: Called in the thread: there is something for `look`.
        self.notify: Final = partial(adapter.threads.notify, self, host.loop)
        self.output = Output(self, adapter.patience_s, adapter.extents)
        self._input: IO[bytes] | None = None
        #: Where the application reads a body that has not come whole.
        self._unread: Input | None = None
        # Set by the thread: whether the application has returned, and what it has raised.
        self._returned = False
        self._error: BaseException | None = None
        #: A file to be sent as the whole body, and who has named it. The loop takes it, and closes it.
        self._file: tuple[str, Source] | None = None
        # Set by the loop: whether all is done.
        self._finished = False

    def start(self) -> None:
        if self._more_body and not self._adapter.stream_uploads:
            self.task = self.host.loop.create_task(self._collect())
            return
        (body,) = self._arrivals
        self._arrivals = []
        if self._more_body:
            self._unread = Input(self.notify)
            self._unread.feed(body, more=True)
            self._input = io.BufferedReader(self._unread)
        else:
            self.link.window.consume(len(body))
            self._input = io.BytesIO(body)
        self._submit()

    def _submit(self) -> None:
        """Have the application run in a thread."""
        try:
            self._adapter.threads.submit(self)
        except RuntimeError as error:
            # Not at once: the caller of `start` still has the stream in hand.
            self.host.loop.call_soon(self._not_started, error)

    def _not_started(self, error: RuntimeError) -> None:
        assert self._input is not None
        self._input.close()
        self._returned = True
        if self.phase not in OVER:
            _log.error("%s: answering 500: no thread can be started: %s", self, error, extra=about_stream(self))
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
                    environ = environ_of(self.request)
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
        self.notify()

    def hand_over(self, response: Response, what: str, source: Source) -> None:
        """Have a file sent as the whole body. `what` names who has named it."""
        self.response = response
        self._file = what, source
        self.notify()

    def check_client(self) -> None:
        """
        Raises:
            ClientDisconnected: the client has left.
        """
        if self.phase is LOST:
            raise ClientDisconnected(f"the client has left ({self.request.reply_channel})")

    # In the event loop.

    def look(self) -> None:
        """Send what there is, and see whether the application has returned."""
        if self._finished:
            # A thread may hand over a file just when nobody waits for it any more.
            self._close_files()
            return
        returned = self._returned or self.cancelled  # of one that is cancelled the thread is left behind
        while self._unread is not None and self._unread.taken:
            due = self.link.window.consume(self._unread.taken.popleft())
            if due is not None and self.phase not in OVER:
                self.link.send_window(due)
        if self.phase not in OVER:
            self._send_on()
        if self.output.room:
            self.output.make_room()
        # If the response is whole, its client gets the rest, and what was raised behind it concerns nobody.
        has_failed = self._error is not None and (self.cancelled or not self.output.whole)
        if returned and self.task is None and (self.phase in OVER or has_failed):
            self._finish()
        elif self._returned and not self.answering:
            # The client takes its time, and the next request has the thread.
            self.answering = True
            self.host.began()

    def _send_on(self) -> None:
        if self._file is not None:
            (what, source), self._file = self._file, None
            self.phase = HELD
            self.task = self.host.loop.create_task(self._send_file(what, source))
        if self.task is not None:
            return
        output, credit = self.output, self.link.credit
        whole = output.whole  # before its pieces: one that comes meanwhile may be the last
        try:
            while credit.open and (piece := output.take()) is not None:
                self.response.send_piece(piece, not whole or output.has_more)
        except OSError as error:
            conclude(self, error)
            return
        if whole and self.phase is not DONE and not output.has_more and credit.open:
            self.response.send_piece(b"", more=False)

    async def _send_file(self, what: str, source: Source) -> None:
        """Send a file as the whole response."""
        try:
            if self.phase in OVER:
                source.close()  # the client has left before this first step
            else:
                await self.response.send_file(what, source)
        except GeneratorExit:
            raise  # the interpreter ends
        except BaseException as error:
            conclude(self, error)
        self.task = None
        self.look()

    def _finish(self) -> None:
        self._finished = True
        self._close_files()
        error, self._error = self._error, None
        if error is not None:
            conclude(self, error)
        self.host.ended(self)

    def _close_files(self) -> None:
        if self._file is not None:
            self._file[1].close()
            self._file = None
        if self._returned:
            self.output.close()

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
        if self.link.credit.update(total):
            self.wake()
            self.look()

    def drained(self) -> bool:
        # A thread cannot be notified otherwise than by `cancel`.
        return False

    def cancel(self) -> None:
        if self.task is not None:
            super().cancel()
        elif not self._finished:
            # No thread can be stopped. It is left behind, and finds that its client has left.
            self.cancelled = True
            self.release(STOPPED)
            self._finish()

    def _end(self, code: int, reason: str) -> None:
        super()._end(code, reason)
        self.output.make_room()
        if self._unread is not None:
            self._unread.cut()
        if self._returned:
            # Nobody waits for credit any more. Not at once: the caller still has the stream in hand.
            self.host.loop.call_soon(self.look)
