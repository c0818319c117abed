"""Asking an admin endpoint, and waiting for the answer: there is nothing else to do meanwhile."""

from __future__ import annotations

import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Final

import msgspec

from ifserver.errors import ConfigurationError
from ifserver.observe.admin.publication import Publication, written
from ifserver.status import Paused, Pools, Status, decode_status

__all__ = ["Client"]

#: How long an answer may take, in seconds: the endpoint asks every node, and waits a second for each question; for what
#: is published it waits 5 s.
_ANSWER_S: Final = 6.0


class _Reached(msgspec.Struct):
    """What an endpoint answers to what was published."""

    processes: int


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """An endpoint sends nobody elsewhere. Whoever else does would be sent the token there."""

    def redirect_request(self, *about: object) -> None:
        """The redirect is the answer, which is no success."""


class Client:
    """The admin endpoint at `address`, ``HOST:PORT`` or a URL.

    Every method raises `OSError` when there is no answer, or it is no success, and `ValueError` when it is none that is
    understood: another release may tell other things.
    """

    def __init__(self, address: str) -> None:
        url = address if address.startswith(("http://", "https://")) else f"http://{address}"
        self.url = url.rstrip("/")
        # An operator's proxy is for the world outside.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())

    def raw_status(self) -> bytes:
        """The status, as JSON."""
        return self._ask("/status.json")

    def status(self) -> Status:
        """The status."""
        return decode_status(self.raw_status())

    def close(self, channel: str) -> str:
        """Close a stream; what the endpoint says to that, also where it refuses."""
        try:
            said = self._ask(f"/close?stream={urllib.parse.quote(channel, safe='')}", {"X-Ifserver-Close": "viewer"})
        except urllib.error.HTTPError as error:
            with error:
                said = error.read()
        return said.decode("utf-8", "replace").strip()

    def pause(self, order: str, pool: str, token: str | None, seconds: float | None = None) -> Paused:
        """``pause`` a pool for so many `seconds`, ``resume`` it, or (empty) ask what is paused; without a name: all.

        Raises:
            urllib.error.HTTPError: an `OSError`: the endpoint refuses, or could not; its body says why.
            ValueError: the answer is not understood.
        """
        arguments = {"pool": pool} if pool else {}
        if seconds is not None:
            arguments["for"] = repr(seconds)
        headers = {"X-Ifserver-Pause": "1"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        path = f"/{order or 'pause'}?{urllib.parse.urlencode(arguments)}"
        return msgspec.json.decode(self._ask(path, headers, method="POST" if order else "GET"), type=Paused)

    def pools(self, weights: Mapping[str, str], reset: bool, token: str | None) -> Pools:
        """Let pools share their requests by these `weights`, or as the settings say (`reset`), or (empty) show them.

        Raises:
            urllib.error.HTTPError: an `OSError`: the endpoint refuses, or could not; its body says why.
            ValueError: the answer is not understood.
        """
        headers = {"X-Ifserver-Pools": "1"} | ({} if token is None else {"Authorization": f"Bearer {token}"})
        path = "/pools/reset" if reset else f"/pools?{urllib.parse.urlencode(weights)}"
        said = self._ask(path, headers, method="POST" if weights or reset else "GET")
        return msgspec.json.decode(said, type=Pools)

    def publish(self, group: str, publication: Publication, token: str) -> int:
        """Publish in a group; to how many processes that went.

        Raises:
            urllib.error.HTTPError: an `OSError`: the endpoint refuses, or could not; its body says why.
            ValueError: the answer is not understood.
        """
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        said = self._ask(f"/groups/{group}", headers, written(publication))
        return msgspec.json.decode(said, type=_Reached).processes

    def refused(self, command: str, error: urllib.error.HTTPError) -> int:
        """Tell why `command` was not carried out; the exit code.

        Raises:
            ConfigurationError: whoever has given the command has to mend something.
        """
        with error:
            said = error.read().decode("utf-8", "replace").strip()
        what = f"{self.url}: {error.code}: {said or error.reason}"
        if error.code < 500:
            raise ConfigurationError(f"{command}: {what}") from None
        print(f"ifserver: error: {what}", file=sys.stderr)
        return 1

    def _ask(
        self, path: str, post: dict[str, str] | None = None, body: bytes | None = None, method: str | None = None
    ) -> bytes:
        method = method or ("GET" if post is None else "POST")
        request = urllib.request.Request(self.url + path, body, post or {}, method=method)
        with self._opener.open(request, timeout=_ANSWER_S) as response:
            answer: bytes = response.read()
        return answer
