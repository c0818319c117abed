"""The admin endpoint's HTTP: its paths, and how they are protected. On ``twisted.web``, for it is no hot path.

It is for operators, and must hold against web pages that their browsers show beside it. What changes anything needs a
header that no form can send (Fetch standard: it is not "CORS-safelisted", so a browser asks first, and is not allowed).
Only probes are answered under a name that is not ours: a page could let its own name point here (DNS rebinding).

What is under ``/groups/`` is for programs, and needs a bearer token (RFC 6750). That is enough: a browser never sends
one by itself, as it does cookies and passwords, and could send none without asking first, for ``Authorization`` is not
safelisted either.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from io import BytesIO
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote

import msgspec
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IAddress
from twisted.protocols.policies import WrappingFactory
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from ifserver import channels
from ifserver.errors import ChannelNameError, NodeError, PushInDoubt
from ifserver.observe import publication
from ifserver.observe.admin import orders
from ifserver.observe.admin.live_view import Recorder, page
from ifserver.observe.admin.metrics import Scrape
from ifserver.observe.admin.survey import Survey, Surveyor
from ifserver.status import encode_status

if TYPE_CHECKING:
    from ifserver.observe.admin.subject import ServerSubject, SupervisorSubject

__all__ = ["CLOSE_HEADER", "AdminFactory"]

#: What a request that closes a stream must have, with any value.
CLOSE_HEADER: Final = "X-Ifserver-Close"
#: How long a connection may be idle, in seconds, and how many there may be.
_IDLE_S: Final = 60
_MAX_CONNECTIONS: Final = 100
#: The longest body that is read, in bytes, and what is thrown away of a longer one, so that its client finds the time
#: to read the answer.
_MAX_BODY_BYTES: Final = 1024 * 1024
_MAX_DISCARDED_BYTES: Final = 16 * _MAX_BODY_BYTES
#: How long the nodes may take to publish, in seconds.
_PUBLISH_S: Final = 5.0

#: Of those that twisted.web does not know.
_REASONS: Final = {421: b"Misdirected Request"}
_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"
_GROUPS: Final = "/groups/"
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_log = logging.getLogger(__name__)


class _Answer(NamedTuple):
    status: int
    body: bytes
    content_type: str = _TEXT
    #: Beside those that all answers have.
    headers: Mapping[str, str] = _NOTHING
    policy: str = "default-src 'none'; frame-ancestors 'none'"


_NO_TOKEN: Final = _Answer(
    401,
    b"the token is missing or wrong: Authorization: Bearer TOKEN\n",
    headers={"www-authenticate": 'Bearer realm="ifserver"'},
)


class AdminFactory(WrappingFactory):
    """Serves the admin endpoint of `subject`.

    Args:
        reactor: for timeouts.
        names: by which it may be asked, beside addresses and ``localhost``.
        token: with which groups may be asked for and published in; None: they may not.
    """

    noisy = False

    def __init__(
        self,
        subject: ServerSubject | SupervisorSubject,
        reactor: Any,
        names: Collection[str],
        token: str | None = None,
    ) -> None:
        root = _Root(subject, reactor, names, token)
        site: Any = _Site(root, requestFactory=_Request, timeout=_IDLE_S, reactor=reactor)  # type: ignore[no-untyped-call]
        site.displayTracebacks = False
        site.protocol = _Channel
        site.token = token
        self._recorder = root.recorder
        super().__init__(site)  # type: ignore[no-untyped-call]

    def start(self) -> None:
        """Begin to keep what is measured, for the charts of the page."""
        self._recorder.start()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if len(self.protocols) >= _MAX_CONNECTIONS:
            return None
        return super().buildProtocol(addr)

    def close(self) -> None:
        """Cut all connections, and keep nothing more."""
        self._recorder.stop()
        for protocol in list(self.protocols):
            protocol.transport.abortConnection()


class _Site(Site):
    noisy = False

    def log(self, request: Any) -> None:
        """Nothing: probes and scrapes would fill the log."""

    def startFactory(self) -> None:
        """Nothing: no log, and no timer that notes the time each second."""

    def stopFactory(self) -> None:
        """Nothing was started."""


class _Channel(HTTPChannel):
    """Answers one request for each read, and closes behind it where more have come. Otherwise all of them would be
    answered in one turn, and to take them out of what was read costs the square of its length."""

    #: Of the request line, and of a header, in bytes. A longer one ends the connection.
    MAX_LENGTH = 8192

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        if len(self._buffer) > (self.length or 0):
            request.responseHeaders.setRawHeaders(b"connection", [b"close"])
            return False
        return bool(super().checkPersistence(request, version))  # type: ignore[no-untyped-call]


class _Request(Request):
    """Keeps a body only where the token is right."""

    content: BytesIO
    channel: Any
    requestHeaders: Any
    _kept = False
    #: What has come after the answer that it is too long.
    _discarded: int | None = None

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()
        self._kept = _has_token(self.channel.site.token, self.requestHeaders.getRawHeaders(b"authorization"))
        if self._kept and length is not None and length > _MAX_BODY_BYTES:
            self._too_long()

    def handleContentChunk(self, data: bytes) -> None:
        if self._discarded is not None:
            self._discarded += len(data)
            if self._discarded > _MAX_DISCARDED_BYTES:
                self.channel.transport.abortConnection()
        elif self._kept:
            self.content.write(data)
            if self.content.tell() > _MAX_BODY_BYTES:
                self._too_long()

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        if self._discarded is not None:
            self.channel.loseConnection()
        else:
            super().requestReceived(command, path, version)  # type: ignore[no-untyped-call]

    def _too_long(self) -> None:
        """Refuse before all of it has come. The connection is of no use after that."""
        self._discarded = 0
        self.content = BytesIO()
        why = b"the body is longer than 1 MiB\n"
        fields = b"Content-Type: text/plain\r\nContent-Length: %d\r\nConnection: close" % len(why)
        self.channel.transport.write(b"HTTP/1.1 413 Content Too Large\r\n%b\r\n\r\n%b" % (fields, why))
        if self.requestHeaders.hasHeader("expect"):
            self.requestHeaders.removeHeader("expect")
            self.channel.loseConnection()  # nothing is on its way


class _Root(Resource):
    """Everything that can be asked for."""

    isLeaf = True

    def __init__(
        self, subject: ServerSubject | SupervisorSubject, reactor: Any, names: Collection[str], token: str | None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._subject = subject
        self._reactor = reactor
        self._token = token
        surveyor = Surveyor(subject.clusters, reactor, subject.pools)
        self.recorder = Recorder(subject, surveyor, reactor)
        self._scrape = Scrape(subject)
        self._orders = orders.Orders(subject, surveyor, reactor)
        self._names = frozenset(name.lower().rstrip(".") for name in names) | {"localhost"}
        self._page = _Answer(200, *page())
        self._pages: dict[str, Callable[[Any], Deferred[_Answer]]] = {
            "/": lambda _: succeed(self._page),
            "/livez": lambda _: succeed(_Answer(200, b"alive\n")),
            "/readyz": lambda _: self.recorder.survey().addCallback(self._ready),
            "/metrics": lambda request: self.recorder.survey().addCallback(self._metrics, request),
            "/status.json": self._status,
        }

    def render(self, request: Any) -> Any:
        try:
            answering = self._answer(request, request.path.decode("ascii", "replace"))
        except Exception:
            # A bug of ours, whose traceback is not for clients.
            answering = succeed(_failing(Failure()))
        request.notifyFinish().addErrback(lambda _: answering.cancel())
        answering.addErrback(_failing)
        answering.addCallback(lambda answer: _write(request, answer))
        answering.addErrback(lambda failure: failure.trap(CancelledError))  # the client has left
        return NOT_DONE_YET

    def _answer(self, request: Any, path: str) -> Deferred[_Answer]:
        if path not in ("/livez", "/readyz") and not self._is_ours(_field(request, b"host")):
            why = b"not by this name: ask by an IP address or as localhost, or name it in admin_hosts\n"
            return succeed(_Answer(421, why))
        if path == "/close":
            return succeed(self._close(request))
        if path in orders.PATHS:
            return self._order(request, path)
        if path.startswith(_GROUPS):
            return self._group(request, unquote(path.removeprefix(_GROUPS)))
        asked = self._pages.get(path)
        if asked is None:
            there_is = ", ".join((*self._pages, "/close", *orders.PATHS))
            return succeed(_Answer(404, f"there is {there_is} and /groups/NAME\n".encode()))
        if request.method not in (b"GET", b"HEAD"):
            return succeed(_Answer(405, b"GET or HEAD\n", headers={"allow": "GET, HEAD"}))
        return asked(request)

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header names us by address or by a name that is ours."""
        found = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(:\d*)?", host.strip().lower())
        if found is None:
            return False
        name = found[1].removeprefix("[").removesuffix("]").rstrip(".")
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _close(self, request: Any) -> _Answer:
        if request.method != b"POST":
            return _Answer(405, b"POST\n", headers={"allow": "POST"})
        if not request.requestHeaders.hasHeader(CLOSE_HEADER):
            return _Answer(403, f"the header {CLOSE_HEADER} is missing\n".encode())
        [channel, *more] = request.args.get(b"stream", [b""])
        if not channel or more:
            return _Answer(400, b"which? /close?stream=CHANNEL\n")
        name = channel.decode("ascii", "replace")
        if not self._subject.close(name):
            return _Answer(404, b"there is no such stream here\n")
        _log.info("%s: closed by an operator", name)
        return _Answer(200, b"closed\n")

    def _group(self, request: Any, name: str) -> Deferred[_Answer]:
        """Publish in a group, or list its members here."""
        if self._token is None:
            setting = f"{self._subject.section}.admin_token"
            variable = f"IFSERVER_{setting.replace('.', '_').upper()}"
            return succeed(_Answer(403, f"there is no token: set {setting} ({variable} in the environment)\n".encode()))
        if not _has_token(self._token, request.requestHeaders.getRawHeaders(b"authorization")):
            return succeed(_NO_TOKEN)
        if request.method not in (b"GET", b"HEAD", b"POST"):
            return succeed(_Answer(405, b"GET, HEAD or POST\n", headers={"allow": "GET, HEAD, POST"}))
        try:
            group = channels.check_group(name)
            if request.method != b"POST":
                return succeed(self._members(group))
            body = publication.parse(_field(request, b"content-type"), request.content.getvalue())
        except (ChannelNameError, ValueError) as error:
            return succeed(_Answer(400, f"{error}\n".encode("utf-8", "backslashreplace")))
        publishing: Deferred[Any] = self._subject.clusters.groups.publish(group, **body._asdict())
        publishing.addTimeout(_PUBLISH_S, self._reactor)
        return publishing.addCallbacks(_published, _not_published)

    def _order(self, request: Any, path: str) -> Deferred[_Answer]:
        """Order something of all servers, or show what was ordered."""
        place = orders.PATHS[path]
        if request.method not in place.methods:
            methods = b", ".join(place.methods).decode()
            return succeed(_Answer(405, f"{methods}\n".encode(), headers={"allow": methods}))
        if self._token is not None:
            if not _has_token(self._token, request.requestHeaders.getRawHeaders(b"authorization")):
                return succeed(_NO_TOKEN)
        elif not request.requestHeaders.hasHeader(place.header):
            return succeed(_Answer(403, f"the header {place.header} is missing\n".encode()))
        answering = Deferred.fromCoroutine(self._orders.answer(path, request.method, request.args))
        return answering.addCallbacks(lambda body: _Answer(200, body, _JSON), _not_ordered)

    def _members(self, group: str) -> _Answer:
        streams = [{"stream": stream, "tag": tag} for stream, tag in self._subject.members(group)]
        return _Answer(200, msgspec.json.encode({"members": len(streams), "streams": streams}), _JSON)

    def _ready(self, survey: Survey) -> _Answer:
        reasons = self._subject.unready(survey)
        return _Answer(503, "".join(f"{why}\n" for why in reasons).encode()) if reasons else _Answer(200, b"ready\n")

    def _metrics(self, survey: Survey, request: Any) -> _Answer:
        return _Answer(200, *self._scrape.text(survey, _field(request, b"accept")))

    def _status(self, request: Any) -> Deferred[_Answer]:
        """The status; with ``after``, also the figures behind the one of that number."""
        try:
            given = request.args.get(b"after", [])
            after = int(given[0]) if given else None
            if len(given) > 1:
                raise ValueError
        except ValueError:
            return succeed(_Answer(400, b"after: expected the number of a figure, once\n"))
        return self.recorder.survey().addCallback(self._with_history, after)

    def _with_history(self, survey: Survey, after: int | None) -> _Answer:
        status = msgspec.structs.replace(
            self._subject.status(survey),
            events=self.recorder.events(),
            history=None if after is None else self.recorder.history(after),
        )
        return _Answer(200, encode_status(status), _JSON)


def _field(request: Any, name: bytes) -> str:
    """The value of a header field, whatever its bytes are; empty: there is none."""
    value: bytes = request.getHeader(name) or b""
    return value.decode("latin-1")


def _has_token(token: str | None, fields: Sequence[bytes] | None) -> bool:
    """Whether the `fields` of ``Authorization`` hold the token. How long that takes depends on no character of it."""
    if token is None or fields is None or len(fields) != 1:
        return False
    scheme, _, given = fields[0].partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(b" "), token.encode())


def _not_ordered(failure: Failure) -> Any:
    error = failure.value
    if isinstance(error, orders.Refused):
        return _Answer(error.status, f"{error}\n".encode("ascii", "backslashreplace"))
    if failure.check(NodeError):
        return _Answer(503, f"no node has answered: {failure.getErrorMessage()}\n".encode())
    return failure


def _published(processes: int) -> _Answer:
    return _Answer(202, msgspec.json.encode({"processes": processes}), _JSON)


def _not_published(failure: Failure) -> Any:
    if failure.check(PushInDoubt, TimeoutError):
        # No 503, after which a client may send it once more: then some members would get it twice.
        why = failure.getErrorMessage() if failure.check(PushInDoubt) else f"no answer within {_PUBLISH_S:g} s"
        return _Answer(504, f"it may have been published, or not: {why}\n".encode())
    if failure.check(NodeError):
        return _Answer(503, f"not published: {failure.getErrorMessage()}\n".encode())
    return failure


def _failing(failure: Failure) -> Any:
    if failure.check(CancelledError):
        return failure
    _log.error("the admin endpoint could not answer:\n%s", failure.getTraceback())
    return _Answer(500, b"this is a defect of ifserver; its log says more\n")


def _write(request: Any, answer: _Answer) -> None:
    headers = {
        "content-type": answer.content_type,
        "content-length": str(len(answer.body)),
        "content-security-policy": answer.policy,
        "cross-origin-resource-policy": "same-origin",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
        "server": "ifserver",
        **answer.headers,
    }
    request.setResponseCode(answer.status, _REASONS.get(answer.status))
    for name, value in headers.items():
        request.setHeader(name, value)
    if request.method != b"HEAD":
        request.write(answer.body)
    request.finish()
