"""Asking an admin endpoint, and waiting for the answer: there is nothing else to do meanwhile."""

from __future__ import annotations

import http.client
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from email.message import Message
from typing import Final

import msgspec

from ifserver.config.checks import parse_address
from ifserver.errors import ConfigurationError
from ifserver.observe.publication import Publication, written
from ifserver.status import Paused, Pools, Status, decode_status

__all__ = ["Client"]

#: How long an answer may take, in seconds: the endpoint asks every node, and waits a second for each question; for what
#: is published it waits 5 s.
_ANSWER_S: Final = 6.0
#: All answers of an admin endpoint have a policy that begins like that, and nothing else has it by accident. Only the
#: one that a body is too long has no fields.
_POLICY: Final = "default-src 'none'"
_TOO_LONG: Final = 413
_SOMETHING_ELSE: Final = "this is no admin endpoint of ifserver"
_ADVICE: Final = (
    "give the address that the server's log names ('admin endpoint at ...'), or start it with --admin HOST:PORT"
)


class _Reached(msgspec.Struct):
    """What an endpoint answers to what was published."""

    processes: int


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An endpoint sends no client elsewhere; anything else that does would have the token sent there."""

    def redirect_request(self, *about: object) -> None:
        """The redirect is the answer, which is no success."""


class Client:
    """The admin endpoint at `address`, ``HOST:PORT`` or a URL.

    Every method raises `OSError` when there is no answer, it is no success, or it is that of something else, and
    `ValueError` when it is none that is understood: another release may report other things.

    Raises:
        ConfigurationError: it is no address.
    """

    def __init__(self, address: str) -> None:
        self.url = _url(address)
        # An operator's proxy is for the world outside.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())

    def raw_status(self) -> bytes:
        """The status, as JSON."""
        return self._ask("/status.json")

    def status(self) -> Status:
        """The status."""
        return decode_status(self.raw_status())

    def close(self, channel: str) -> str:
        """Close a stream; what the endpoint answers, also where it refuses."""
        try:
            answer = self._ask(f"/close?stream={urllib.parse.quote(channel, safe='')}", {"X-Ifserver-Close": "viewer"})
        except urllib.error.HTTPError as error:
            with error:
                answer = error.read()
        return answer.decode("utf-8", "replace").strip()

    def pause(self, order: str, pool: str, token: str | None, seconds: float | None = None) -> Paused:
        """``pause`` a pool for so many `seconds`, ``resume`` it, or (empty) ask what is paused; without a name: all.

        Raises:
            urllib.error.HTTPError: an `OSError`: the endpoint refuses, or could not; its body has the reason.
            ValueError: the answer is not understood.
        """
        arguments = {"pool": pool} if pool else {}
        if seconds is not None:
            arguments["for"] = repr(seconds)
        headers = {"X-Ifserver-Pause": "1"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        path = f"/{order or 'pause'}?{urllib.parse.urlencode(arguments)}"
        return msgspec.json.decode(self._ask(path, headers, method="POST" if order else "GET"), type=Paused)

    def pools(self, weights: Mapping[str, str], reset: bool, token: str | None) -> Pools:
        """Let pools share their requests by these `weights`, by those of the settings (`reset`), or (empty) show them.

        Raises:
            urllib.error.HTTPError: an `OSError`: the endpoint refuses, or could not; its body has the reason.
            ValueError: the answer is not understood.
        """
        headers = {"X-Ifserver-Pools": "1"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        path = "/pools/reset" if reset else f"/pools?{urllib.parse.urlencode(weights)}"
        answer = self._ask(path, headers, method="POST" if weights or reset else "GET")
        return msgspec.json.decode(answer, type=Pools)

    def publish(self, group: str, publication: Publication, token: str) -> int:
        """Publish in a group; to how many processes that went.

        Raises:
            urllib.error.HTTPError: an `OSError`: the endpoint refuses, or could not; its body has the reason.
            ValueError: the answer is not understood.
        """
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        answer = self._ask(f"/groups/{group}", headers, written(publication))
        return msgspec.json.decode(answer, type=_Reached).processes

    def refused(self, command: str, error: urllib.error.HTTPError) -> int:
        """Print why `command` was not carried out; the exit code.

        Raises:
            ConfigurationError: the command or a setting has to be corrected.
        """
        with error:
            why = error.read().decode("utf-8", "replace").strip()
        what = f"{self.url}: {error.code}: {why or error.reason}"
        if error.code < 500:
            raise ConfigurationError(f"{command}: {what}") from None
        print(f"ifserver: error: {what}", file=sys.stderr)
        return 1

    def _ask(
        self, path: str, post: dict[str, str] | None = None, body: bytes | None = None, method: str | None = None
    ) -> bytes:
        method = method or ("GET" if post is None else "POST")
        request = urllib.request.Request(self.url + path, body, post or {}, method=method)
        try:
            with self._opener.open(request, timeout=_ANSWER_S) as response:
                answer: bytes = response.read()
                fields = response.headers
        except urllib.error.HTTPError as error:
            if error.code == _TOO_LONG or _is_ours(error.headers):
                raise
            with error:
                raise OSError(f"{_SOMETHING_ELSE}: it answers {error.code} {error.reason}; {_ADVICE}") from None
        except (OSError, http.client.HTTPException) as error:
            raise OSError(_why(error)) from error
        if not _is_ours(fields):
            raise OSError(f"{_SOMETHING_ELSE}; {_ADVICE}")
        return answer


def _url(address: str) -> str:
    if not address.startswith(("http://", "https://")):
        try:
            parse_address(address.rstrip("/"))
        except ConfigurationError as error:
            raise ConfigurationError(f"the admin endpoint: {error}, or a URL") from None
        return f"http://{address.rstrip('/')}"
    try:
        parts = urllib.parse.urlsplit(address)
        is_url = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_url = False
    if not is_url or not address.isprintable() or " " in address:
        raise ConfigurationError(f"the admin endpoint: {address!r}: expected HOST:PORT, or a URL")
    return address.rstrip("/")


def _is_ours(fields: Message) -> bool:
    """Whether an admin endpoint has answered, by the fields of the answer."""
    return (fields.get("Content-Security-Policy") or "").startswith(_POLICY)


def _why(error: Exception) -> str:
    """Why there is no answer, and what to do."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, ConnectionRefusedError):
        return f"nobody listens there; {_ADVICE}"
    if isinstance(reason, socket.gaierror):
        return f"the name of the host is not known ({reason.strerror}); {_ADVICE}"
    if isinstance(reason, TimeoutError):
        return f"no answer within {_ANSWER_S:g} s"
    if isinstance(reason, http.client.BadStatusLine) and not isinstance(reason, OSError):
        return f"{_SOMETHING_ELSE}: it does not answer in HTTP; {_ADVICE}"
    return f"no answer: {getattr(reason, 'strerror', None) or reason}"
