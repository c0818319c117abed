"""django-eventstream: events from views and from commands, to the clients of all workers."""

from __future__ import annotations

import json
from contextlib import ExitStack

import httpx
import pytest

from tests.e2e.running import LIMIT_S
from tests.foreign.clients import Cut, Event, events
from tests.foreign.site import Needs, Site
from tests.foreign.ways import Served

__all__ = ["SITE"]

SITE = Site("eventstream")


def say(served: Served, text: str) -> None:
    """Publish an event from a view."""
    httpx.post(f"{served.url}/say/", data={"text": text}, timeout=LIMIT_S).raise_for_status()


def text_of(event: Event) -> str:
    """The text of one that was published."""
    assert event.type == "message", event
    return str(json.loads(event.data)["text"])


@SITE.scenario("events from a view, to clients of all workers", Needs.ASGI)
def views(served: Served) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(events(f"{served.url}/events/")) for _ in range(8)]
        for stream in streams:
            assert next(stream).type == "stream-open"
        say(served, "one")
        say(served, "two")
        for stream in streams:
            assert [text_of(next(stream)) for _ in range(2)] == ["one", "two"]


@SITE.scenario("events from a management command", Needs.ASGI)
def commands(served: Served) -> None:
    with events(f"{served.url}/events/") as stream:
        assert next(stream).type == "stream-open"
        served.manage("announce", "hello")
        assert text_of(next(stream)) == "hello"


@SITE.scenario("a worker is killed: cut, and what was missed comes after Last-Event-ID", Needs.ASGI | Needs.WORKERS)
def killed(served: Served) -> None:
    with events(f"{served.url}/events/") as stream:
        assert next(stream).type == "stream-open"
        say(served, "before")
        event = next(stream)
        assert text_of(event) == "before"
        served.kill_workers()
        with pytest.raises(Cut):
            list(stream)
    say(served, "meanwhile")
    with events(f"{served.url}/events/", last_id=event.id) as stream:
        assert next(stream).type == "stream-open"
        assert text_of(next(stream)) == "meanwhile"


@SITE.scenario("system checks: events that stay in one worker", Needs.ASGI | Needs.WORKERS)
def checks(served: Served) -> None:
    check = ("check", "--deploy", "--tag", "ifserver")
    assert "ifserver.W009" in served.project.manage(*check, IFSERVER_WORKER_PROCESSES="2")
    assert "ifserver.W009" not in served.manage(*check)


@SITE.scenario("an edit while events are open", Needs.ASGI | Needs.RUNSERVER)
def edited(served: Served) -> None:
    with events(f"{served.url}/events/") as stream:
        assert next(stream).type == "stream-open"
        with served.edited("notices/views.py", "import os", "import os  # edited"):
            served.processes[0].said(r"views\.py changed")
            # Nothing waits for the stream.
            say(served, "with the new code")
            with pytest.raises(Cut):
                list(stream)
