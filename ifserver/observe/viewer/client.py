"""Asking an admin endpoint, and waiting for the answer: there is nothing else to do meanwhile."""

from __future__ import annotations

import urllib.error
import urllib.parse
import urllib.request
from typing import Final

from ifserver.status import Status, decode_status

__all__ = ["Client"]

#: How long an answer may take, in seconds: the endpoint asks every node, and waits a second for each question.
_ANSWER_S: Final = 5.0


class Client:
    """The admin endpoint at `url`.

    Every method raises `OSError` when there is no answer, or it is no success, and `ValueError` when it is none that is
    understood: another release may tell other things.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        # An operator's proxy is for the world outside.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

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

    def _ask(self, path: str, post: dict[str, str] | None = None) -> bytes:
        method = "GET" if post is None else "POST"
        request = urllib.request.Request(self.url + path, headers=post or {}, method=method)
        with self._opener.open(request, timeout=_ANSWER_S) as response:
            answer: bytes = response.read()
        return answer
