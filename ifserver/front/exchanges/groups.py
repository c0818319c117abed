"""The groups of this server's streams: who is a member, and what a broadcast does to the members.

A member is a WebSocket, or an HTTP response that has begun. The membership is kept here and not in a worker, so that it
outlives the worker (docs/explanation/architecture.rst, Groups).
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from ifserver import channels
from ifserver.errors import ChannelNameError
from ifserver.front.websocket.prepared import Prepared
from ifserver.metrics import GROUP_DELIVERIES
from ifserver.state_machines.effects import Gap, Join, Joined

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from ifserver import messages as m
    from ifserver.config.settings import FrontSettings
    from ifserver.front.exchanges.exchange import Exchange
    from ifserver.front.request_metrics import RequestMetrics
    from ifserver.layers.groups import Groups
    from ifserver.metrics import Counters

__all__ = ["GroupMembers"]

#: Groups that one stream may be a member of: an application that never leaves any gets an error before memory runs out.
_MAX_GROUPS: Final = 1_000
#: RFC 6455 7.4.1 and the IANA registry: the client cannot keep up ("try again later").
_TRY_AGAIN_LATER: Final = 1013

_log = logging.getLogger(__name__)


class GroupMembers:
    """The members of each group, and those who wait to become one."""

    def __init__(self, groups: Groups, counters: Counters, tally: RequestMetrics, settings: FrontSettings) -> None:
        self._groups = groups
        self._tally = tally
        self._counters = counters
        self._settings = settings
        #: group -> member -> its tag.
        self._members: dict[str, dict[Exchange, str]] = {}
        #: Those of them that want gaps reported.
        self._report_gaps: dict[str, set[Exchange]] = {}
        #: Groups that are being subscribed to, the members that wait for that, and of which attempts their joins were.
        self._subscribing: dict[str, dict[Exchange, list[int]]] = {}

    def change(self, settings: FrontSettings) -> None:
        """Take over new settings."""
        self._settings = settings

    def statistics(self) -> dict[str, int]:
        """Counts, for logs and metrics."""
        return {"groups": len(self._members), "group_members": sum(map(len, self._members.values()))}

    def of(self, group: str) -> list[tuple[str, str]]:
        """The identities of the streams that are members of `group`, with their tags."""
        return [(exchange.stream.identity, tag) for exchange, tag in self._members.get(group, {}).items()]

    def sizes(self) -> dict[str, int]:
        """How many members each group has."""
        return {group: len(members) for group, members in self._members.items()}

    # What exchanges ask for.

    def join(self, exchange: Exchange, asked: Join) -> None:
        """Make a stream a member; it gets `Joined` once it receives all that is sent to the group."""
        group = asked.group
        try:
            channels.check_group(group)
        except ChannelNameError as error:
            exchange.handle(Joined(asked.attempt, group, str(error)))
            return
        groups = exchange.groups
        if group not in groups:
            if len(groups) >= _MAX_GROUPS:
                exchange.handle(Joined(asked.attempt, group, f"it is in {_MAX_GROUPS} groups, which is the most"))
                return
            exchange.groups = (*groups, group)
        members = self._members.get(group)
        is_new = members is None
        if members is None:
            members = self._members[group] = {}
            self._subscribing[group] = {}
        members[exchange] = asked.tag
        if asked.gaps:
            self._report_gaps.setdefault(group, set()).add(exchange)
        waiting = self._subscribing.get(group)
        if waiting is None:
            exchange.handle(Joined(asked.attempt, group))
            return
        waiting.setdefault(exchange, []).append(asked.attempt)
        if is_new:
            self._subscribe(group, waiting)

    def leave(self, exchange: Exchange, group: str) -> None:
        """A stream is no member any more."""
        if group in exchange.groups:
            exchange.groups = tuple(each for each in exchange.groups if each != group)
            # The application still waits for an answer to its join, and nothing else would end that.
            for attempt in self._forget(exchange, group):
                exchange.handle(Joined(attempt, group))

    def leave_all(self, exchange: Exchange) -> None:
        """A stream has ended, or begins anew."""
        groups, exchange.groups = exchange.groups, ()
        for group in groups:
            self._forget(exchange, group)

    def _forget(self, exchange: Exchange, group: str) -> list[int]:
        """Returns the attempts of its joins that have not been answered, and will not be."""
        unanswered = self._subscribing.get(group, {}).pop(exchange, [])
        members = self._members[group]
        del members[exchange]
        report_gaps = self._report_gaps.get(group)
        if report_gaps is not None:
            report_gaps.discard(exchange)
            if not report_gaps:
                del self._report_gaps[group]
        if not members:
            del self._members[group]
            self._subscribing.pop(group, None)
            self._groups.unsubscribe(group, self)
        return unanswered

    def _subscribe(self, group: str, waiting: dict[Exchange, list[int]]) -> None:
        subscribing = self._groups.subscribe(group, self)
        subscribing.addCallbacks(
            lambda _: self._answer(group, waiting, ""), self._not_subscribed, errbackArgs=(group, waiting)
        )

    def _not_subscribed(self, failure: Failure, group: str, waiting: dict[Exchange, list[int]]) -> None:
        _log.error("group %s: cannot be subscribed to: %s", group, failure.getErrorMessage())
        self._answer(group, waiting, failure.getErrorMessage())

    def _answer(self, group: str, waiting: dict[Exchange, list[int]], error: str) -> None:
        if self._subscribing.get(group) is not waiting:
            return  # all have left meanwhile
        del self._subscribing[group]
        for exchange, attempts in waiting.items():
            if error:
                self.leave(exchange, group)
            for attempt in attempts:
                exchange.handle(Joined(attempt, group, error))

    # For `ifserver.layers.groups`.

    def heard(self, group: str, broadcast: m.Broadcast) -> None:
        """Something was sent to `group`: write it to each member, or close them."""
        members = self._members.get(group)
        if members is None or broadcast.message is not None:
            return  # that is for applications
        if broadcast.close is not None:
            self._close(members, broadcast.exclude, *broadcast.close)
            return
        prepared = Prepared(broadcast.text, broadcast.data)
        excluded, max_unsent_bytes = broadcast.exclude, self._settings.max_unsent_bytes
        frame = prepared.plain
        delivered = framed = 0
        for exchange in list(members):
            if excluded and exchange.stream.identity == excluded:
                continue
            client = exchange.client
            write_frame = client.write_frame
            try:
                if write_frame is not None:
                    write_frame(frame)
                    framed += 1
                elif written := client.broadcast(prepared, max_unsent_bytes):
                    delivered += 1
                elif written is None:
                    self._overflows(exchange, group)
            except Exception:
                exchange.break_off()
        self._counters.cells[GROUP_DELIVERIES] += framed + delivered
        self._tally.websocket_bytes_out += framed * len(frame)

    def gap(self, group: str, missed: int | None) -> None:
        """Broadcasts were lost on their way to this server."""
        for exchange in list(self._report_gaps.get(group, ())):
            exchange.handle(Gap(group, missed))

    def _overflows(self, exchange: Exchange, group: str) -> None:
        """The client takes what it was sent too slowly. It is the only one to suffer from that."""
        self._counters.add("group_drops", label="slow")
        if exchange in self._report_gaps.get(group, ()):
            exchange.handle(Gap(group, 1))
        if self._settings.group_overflow == "close":
            what = f"closing the connection of a member of group {group}"
            exchange.shared.merged_log.add(
                what, "its client reads too slowly (max_unsent_bytes)", exchange.stream.channel
            )
            _close(exchange, _TRY_AGAIN_LATER, "")

    def _close(self, members: Collection[Exchange], excluded: str, code: int, reason: str) -> None:
        for exchange in list(members):
            if not excluded or exchange.stream.identity != excluded:
                try:
                    _close(exchange, code, reason)
                except Exception:
                    exchange.break_off()


def _close(exchange: Exchange, code: int, reason: str) -> None:
    """Close a WebSocket; cut a response, which cannot be ended here without looking whole."""
    if exchange.websocket is not None:
        exchange.websocket.close(code, reason)
    else:
        exchange.client.cut()
