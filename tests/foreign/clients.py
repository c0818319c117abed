"""What the users of a site have: browsers that log in and fill in forms, and that listen for events."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx

from tests.e2e.running import LIMIT_S
from tests.foreign.site import PASSWORD, USER

__all__ = ["UPLOAD", "Browser", "Cut", "Event", "events"]

#: 20 MB, of which no piece equals another.
UPLOAD = b"".join(number.to_bytes(4, "big") for number in range(5_000_000))


class Cut(Exception):
    """A response was broken off: whoever reads it sees that something is missing."""


class Browser(httpx.Client):
    """It follows redirections, and sends forms with the token that Django asks for."""

    def __init__(self, url: str) -> None:
        super().__init__(base_url=url, timeout=LIMIT_S, follow_redirects=True)

    def login(self, path: str) -> httpx.Response:
        """Log in as the user who may do anything."""
        page = self.fill_in(path, {"username": USER, "password": PASSWORD})
        assert page.status_code == 200, page.text[:500]
        assert "sessionid" in self.cookies, page.text[:500]
        return page

    def fill_in(self, path: str, data: Mapping[str, Any], files: Mapping[str, Any] | None = None) -> httpx.Response:
        """Send the form at a path: what it has already (as far as these scenarios need it), and `data`."""
        page = self.get(path)
        assert page.status_code == 200, page.text[:500]
        found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert found is not None, page.text[:500]
        given = {"csrfmiddlewaretoken": found[1], **data}
        return self.post(page.url, data=given, files=files, headers={"referer": str(page.url)})


class Event(NamedTuple):
    """What an ``EventSource`` hands to a page."""

    type: str
    data: str
    id: str | None


@contextmanager
def events(url: str, last_id: str | None = None, json: Any = None) -> Iterator[Iterator[Event]]:
    """The events at a URL, as an ``EventSource`` has them; with `json` those that are the answer to a POST.

    Reading on raises `Cut` where the response is broken off.
    """
    headers = {"accept": "text/event-stream", **({"last-event-id": last_id} if last_id is not None else {})}
    method = "GET" if json is None else "POST"
    with httpx.stream(method, url, headers=headers, json=json, timeout=LIMIT_S) as response:
        assert response.status_code == 200, response.read()[:500]
        assert response.headers["content-type"].startswith("text/event-stream")
        yield _events(response)


def _events(response: httpx.Response) -> Iterator[Event]:
    fields: dict[str, str] = {}
    last_id = None
    try:
        for line in response.iter_lines():
            name, _, value = line.partition(":")
            if line == "":
                if "data" in fields:
                    yield Event(fields.get("event", "message"), fields["data"], last_id)
                fields = {}
            elif name == "id":
                last_id = value.removeprefix(" ")
            else:
                fields[name] = value.removeprefix(" ")
    except (httpx.RemoteProtocolError, httpx.ReadError) as error:
        raise Cut(str(error)) from error
