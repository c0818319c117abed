"""What is lost between two processes is counted, and streams are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from twisted.internet.task import Clock

from ifserver import channels
from ifserver import messages as m
from ifserver.layers.accounting import EVERYTHING_S, SYNC_ENTRIES, Account, Accounting, Correspondent, epoch_of
from ifserver.layers.clusters import Clusters
from ifserver.layers.node import Pushed
from ifserver.messages import Receipt, Sync, SyncEntry, decode_for_server, decode_for_worker
from ifserver.metrics import Counters, balance, total
from tests.front.fakes import GET, WORKER, World
from tests.layers.fakes import FakeTurn, ToldNode
from tests.spoiled import mangled, spoiled
from tests.test_messages import CONNECT, REQUEST, TO_BOTH, TO_SERVER, TO_WORKER
from tests.worker import stage as worker_stage
from tests.worker.stage import turns
from tests.worker.test_worker import Stage, get, played

HOUR_S = 3600.0


class Process:
    """One process, which receives at `inbox`; its messages are numbers."""

    def __init__(self, clock: Clock, inbox: str, reads: bool = True) -> None:
        self.inbox = inbox
        self.counters = Counters()
        self.reads = reads
        clusters: Any = self
        self.accounting = Accounting(clusters, clock, self.counters)
        #: What is on the way to each inbox, oldest first.
        self.ways: dict[str, list[Any]] = {}
        self.waiting = 0
        #: The receipts that were made.
        self.made: list[Receipt] = []
        #: Whether the nodes take receipts.
        self.taking = True

    @property
    def home(self) -> Process:
        return self

    def send(self, inbox: str, payload: bytes, done: Callable[[], None], *, counted: bool) -> None:
        assert not counted
        message = decode_for_server(payload)
        assert isinstance(message, Receipt)
        self.made.append(message)
        self.ways.setdefault(inbox, []).append(message)
        if self.taking:
            done()

    def ahead(self, inbox: str) -> int:
        return self.waiting

    def send_messages(self, inbox: str, count: int = 1) -> None:
        """Messages, which the node takes."""
        self.ways.setdefault(inbox, []).extend([self.inbox] * count)
        self.counters.add("messages_sent", count)
        self.accounting.sent(inbox, count)

    def send_twice(self, inbox: str) -> None:
        """A message whose first push was in doubt, and had been taken."""
        self.ways.setdefault(inbox, []).append(self.inbox)
        self.accounting.doubted(inbox)
        self.send_messages(inbox)

    def receive(self, other: Process) -> int:
        """All that is on the way here from `other`; how many messages that was."""
        way, other.ways[self.inbox] = other.ways.get(self.inbox, []), []
        for each in way:
            if isinstance(each, Receipt):
                self.accounting.hear(self.inbox, each)
            else:
                self.accounting.incoming[self.inbox][each].count += 1
                self.counters.add("messages_delivered")
        return sum(not isinstance(each, Receipt) for each in way)


class Pair:
    """A server and a worker."""

    def __init__(self, reads: bool = True) -> None:
        self.clock = Clock()
        self.server = Process(self.clock, "!east.server0000")
        self.worker = Process(self.clock, "!east.worker0000", reads)

    def pass_time(self, seconds: float = 1.0) -> None:
        for _ in range(round(seconds)):
            self.clock.advance(1.0)
            self.server.receive(self.worker)
            self.worker.receive(self.server)

    def receipts(self) -> int:
        return len(self.server.made) + len(self.worker.made)

    @property
    def balance(self) -> int:
        return balance(total((self.server.counters.statistics(), self.worker.counters.statistics())))

    def lost(self) -> tuple[int, int]:
        """What the server and the worker have counted as lost on the way to them."""
        return tuple(each.counters.value("messages_dropped", "broker") for each in (self.server, self.worker))  # type: ignore[return-value]

    def assert_at_rest(self) -> None:
        self.pass_time(5)
        assert self.balance == 0
        assert self.clock.getDelayedCalls() == []


def test_two_that_talk_tell_each_other_once_a_second_and_then_no_more() -> None:
    pair = Pair()
    assert pair.clock.getDelayedCalls() == []
    for _ in range(10):
        pair.server.send_messages(pair.worker.inbox, 100)
        pair.worker.send_messages(pair.server.inbox, 50)
        pair.pass_time(1)
    assert 10 <= pair.receipts() <= 40
    pair.assert_at_rest()
    before = pair.receipts()
    pair.pass_time(1000)
    assert pair.receipts() == before
    assert pair.lost() == (0, 0)


def test_what_is_lost_is_counted_once_by_its_receiver() -> None:
    pair = Pair()
    pair.server.send_messages(pair.worker.inbox, 3)
    pair.pass_time(3)
    pair.server.send_messages(pair.worker.inbox, 5)
    pair.server.ways[pair.worker.inbox].clear()
    pair.server.send_messages(pair.worker.inbox, 2)
    assert pair.balance == 7
    pair.assert_at_rest()
    assert pair.lost() == (0, 5)


def test_what_waits_here_is_ahead_of_what_is_said_of_it() -> None:
    pair = Pair()
    pair.server.send_messages(pair.worker.inbox, 3)
    pair.server.waiting = 2
    pair.clock.advance(1.0)
    assert pair.server.made == [Receipt(pair.worker.inbox, pair.server.inbox, (0, 0), (5, 0), None, True)]


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_lost_receipts_are_made_again(lost: int) -> None:
    pair = Pair()
    pair.server.send_messages(pair.worker.inbox, 3)
    while len(pair.server.made) < lost:
        pair.clock.advance(1.0)
    pair.server.ways[pair.worker.inbox].clear()
    pair.pass_time(20)
    assert pair.lost() == (0, 3)
    pair.assert_at_rest()


def pull(pair: Pair, count: int = 1) -> None:
    """The worker pulls requests of the server's."""
    for _ in range(count):
        pair.worker.accounting.pulled([pair.server.inbox])


def test_requests_that_were_pulled_and_of_which_nothing_is_heard() -> None:
    pair = Pair()
    pull(pair, 5)
    for _ in range(3):
        pair.worker.send_messages(pair.server.inbox)
        pair.server.accounting.incoming[pair.server.inbox][pair.worker.inbox].spoken_of += 1
    pair.assert_at_rest()
    assert pair.server.accounting.untold == 2
    pull(pair, 2)
    pair.assert_at_rest()
    assert pair.server.accounting.untold == 4


def test_lost_confirmations_are_made_again() -> None:
    pair = Pair()
    pair.server.send_messages(pair.worker.inbox, 3)
    pair.clock.advance(1.0)
    pair.worker.receive(pair.server)
    pair.clock.advance(1.0)
    assert [each.confirmed for each in pair.worker.made] == [(3, 0)]
    pair.worker.ways[pair.server.inbox].clear()
    pair.server.send_messages(pair.worker.inbox, 2)
    pair.assert_at_rest()
    assert pair.lost() == (0, 0)


def test_what_was_taken_twice_was_sent_twice() -> None:
    pair = Pair()
    pair.server.send_messages(pair.worker.inbox, 3)
    pair.server.send_twice(pair.worker.inbox)
    pair.pass_time(3)
    assert pair.worker.counters.value("messages_delivered") == 5
    # Nobody can know of this one from the number of messages that its sender knows to have been taken.
    pair.server.ways[pair.worker.inbox].append(pair.server.inbox)
    pair.server.accounting.doubted(pair.worker.inbox)
    pair.assert_at_rest()
    assert pair.lost() == (0, 0)


def test_who_reads_nothing_is_not_answered() -> None:
    pair = Pair(reads=False)
    pair.worker.send_messages(pair.server.inbox, 3)
    pair.pass_time(100)
    assert pair.server.made == []
    assert len(pair.worker.made) == 4
    assert pair.clock.getDelayedCalls() == []


def test_who_does_not_answer_is_left_alone_until_he_does() -> None:
    pair = Pair()
    pair.server.send_messages(pair.worker.inbox, 3)
    pair.clock.advance(1.0)
    for _ in range(300):
        pair.clock.advance(1.0)
    assert len(pair.server.made) == 4
    assert pair.clock.getDelayedCalls() == []
    # The node has lost it all while he was frozen.
    pair.server.ways[pair.worker.inbox].clear()
    pair.worker.send_messages(pair.server.inbox)
    pair.pass_time(5)
    assert pair.lost() == (0, 3)
    pair.assert_at_rest()


def test_a_receipt_that_the_node_has_not_taken_holds_the_next_back_for_a_minute() -> None:
    pair = Pair()
    pair.server.taking = False
    for _ in range(59):
        pair.server.send_messages(pair.worker.inbox)
        pair.clock.advance(1.0)
    assert len(pair.server.made) == 1
    pair.server.taking = True
    pair.clock.advance(5.0)
    assert len(pair.server.made) == 2
    pair.assert_at_rest()


def test_a_message_that_went_another_way_may_overtake() -> None:
    """The worker has moved: what is said of the route to its old inbox is of no use at the new one."""
    pair = Pair()
    old, pair.worker.inbox = pair.worker.inbox, "!west.worker0000"
    pair.worker.accounting.hear(pair.worker.inbox, Receipt(old, pair.server.inbox, (0, 0), (7, 0), None, True))
    assert pair.lost() == (0, 0)
    pair.clock.advance(1.0)
    assert pair.worker.made == []


def test_a_process_that_has_moved_is_the_same_one() -> None:
    pair = Pair()
    pair.worker.send_messages(pair.server.inbox, 3)
    pair.pass_time(3)
    pair.worker.inbox = "!west.worker0000"
    pair.worker.send_messages(pair.server.inbox, 2)
    pair.assert_at_rest()
    assert pair.lost() == (0, 0)


@pytest.mark.parametrize("forgetful", ["server", "worker"])
def test_a_queue_that_one_end_has_forgotten_begins_anew(forgetful: str) -> None:
    pair = Pair()
    pair.server.send_messages(pair.worker.inbox, 1000)
    pair.assert_at_rest()
    getattr(pair, forgetful).accounting._forget(pair.clock.seconds() + 2 * HOUR_S)
    pair.server.send_messages(pair.worker.inbox, 3)
    pair.assert_at_rest()
    pair.server.send_messages(pair.worker.inbox, 2)
    pair.server.ways[pair.worker.inbox].clear()
    pair.assert_at_rest()
    assert pair.lost() == (0, 2)


def test_routes_that_nobody_uses_are_forgotten() -> None:
    pair = Pair()
    for number in range(50):
        other = Process(pair.clock, f"!east.other{number:05}")
        pair.server.send_messages(other.inbox)
        other.send_messages(pair.server.inbox)
        pair.server.receive(other)
        pair.clock.advance(1.0)
        pair.server.receive(other)
    pair.pass_time(100)
    pair.clock.advance(2 * HOUR_S)
    pair.server.send_messages(pair.worker.inbox)
    pair.pass_time(5)
    accounting = pair.server.accounting
    assert list(accounting._outgoing) == [pair.worker.inbox]
    assert accounting.incoming[pair.server.inbox].routes.keys() <= {"worker0000"}
    pair.assert_at_rest()


def test_nothing_is_said_after_the_end() -> None:
    pair = Pair()
    pair.server.send_messages(pair.worker.inbox)
    pair.server.accounting.stop()
    pair.server.send_messages(pair.worker.inbox)
    assert pair.clock.getDelayedCalls() == []


#: A message of one side, the loss of what is on the way to it, a push in doubt, or time that passes.
happenings = st.tuples(st.sampled_from(["send", "lose", "double", "read", "pass"]), st.booleans())


@given(st.lists(happenings, max_size=60))
def test_whatever_happens_the_books_balance(course: list[tuple[str, bool]]) -> None:
    pair = Pair()
    for what, of_server in course:
        one, other = (pair.server, pair.worker) if of_server else (pair.worker, pair.server)
        if what == "send":
            one.send_messages(other.inbox)
        elif what == "lose":
            one.ways.pop(other.inbox, None)
        elif what == "double":
            one.send_twice(other.inbox)
        elif what == "read":
            one.receive(other)
        else:
            pair.clock.advance(1.0)
    pair.pass_time(20)
    pair.server.send_messages(pair.worker.inbox)
    pair.worker.send_messages(pair.server.inbox)
    pair.assert_at_rest()


# What processes that share streams report.


SENDER, INBOX = "!east.0123456789", "!west.9876543210"


class Place:
    """A process that can tell others, on nodes that answer as the test says."""

    def __init__(self) -> None:
        self.east, self.west, self.other = ToldNode("east"), ToldNode("west"), ToldNode("other")
        self.turn = FakeTurn()
        nodes: Any = {"here": [self.east], "there": [self.west, self.other]}
        self.clusters = Clusters("0123456789", nodes, "here", Clock(), self.turn, Counters())

    def told(self, node: ToldNode) -> list[tuple[str, Sync]]:
        """What is asked of a node now, by inbox."""
        self.turn.end()
        found = []
        for inbox, payloads in node.asked():
            for payload in payloads:
                sync = decode_for_worker(payload)
                assert isinstance(sync, Sync)
                found.append((inbox, sync))
        return found


def entries(count: int) -> list[SyncEntry]:
    return [SyncEntry(f"9876543210.{number}", 0, 3, 7) for number in range(count)]


def test_all_is_told_once_a_minute_after_a_new_epoch_and_when_that_is_asked_for() -> None:
    correspondent = Correspondent(0.0, "a")
    assert correspondent.begin(1.0, "a") is False
    assert correspondent.begin(2.0, "b") is True
    assert correspondent.begin(3.0, "b") is False
    assert correspondent.begin(2.0 + EVERYTHING_S, "b") is True
    assert correspondent.begin(3.0 + EVERYTHING_S, "b") is False
    correspondent.tell_everything()
    assert correspondent.begin(4.0 + EVERYTHING_S, "b") is True
    assert correspondent.begin(5.0 + EVERYTHING_S, "b") is False


def test_nothing_is_told_while_the_last_is_under_way_but_for_a_minute_at_most() -> None:
    place = Place()
    correspondent = Correspondent(0.0, "a")
    correspondent.tell(place.clusters, INBOX, SENDER, "supervisor", entries(1))
    assert place.told(place.west) == [(INBOX, Sync(SENDER, "supervisor", entries(1)))]
    assert correspondent.begin(1.0, "b") is None
    assert correspondent.begin(EVERYTHING_S, "b") is True
    place.west.answer(Pushed(1, 1))
    assert correspondent.begin(EVERYTHING_S + 1.0, "b") is False


def test_a_message_speaks_of_so_many_streams_at_most() -> None:
    place = Place()
    Correspondent(0.0, "a").tell(place.clusters, INBOX, SENDER, "", entries(SYNC_ENTRIES + 1))
    assert [len(sync.entries) for _, sync in place.told(place.west)] == [SYNC_ENTRIES, 1]


def test_one_whose_node_is_gone_is_looked_for_elsewhere_and_told_nothing_of_what_still_waits() -> None:
    place = Place()
    place.west.gone_s = place.clusters.outages.grace_s
    Correspondent(0.0, "a").tell(place.clusters, INBOX, SENDER, "", entries(1))
    [(inbox, sync)] = place.told(place.other)
    assert inbox == "!other.9876543210"
    assert [(entry.sent, entry.consumed) for entry in sync.entries] == [(0, 7)]
    assert place.told(place.west) == []


def test_one_on_a_node_that_is_not_configured_is_no_reason_to_fail(caplog: pytest.LogCaptureFixture) -> None:
    place = Place()
    assert epoch_of(place.clusters, "!north.9876543210") is None
    Correspondent(0.0, None).tell(place.clusters, "!north.9876543210", SENDER, "", entries(1))
    assert "'!north.9876543210' has its home on no configured node" in caplog.text


def test_an_epoch_is_that_of_both_nodes() -> None:
    place = Place()
    before = epoch_of(place.clusters, INBOX)
    assert before == epoch_of(place.clusters, INBOX)
    place.west.epoch = "another"
    assert epoch_of(place.clusters, INBOX) != before


# Which streams are due.


def due(account: Account, *times: float, sent: int = 0, consumed: int = 0, in_any_case: bool = False) -> list[bool]:
    """At which of `times` a stream is told of."""
    return [account.is_due(at, sent, consumed, in_any_case) for at in times]


def test_a_stream_is_told_of_when_it_is_a_second_old() -> None:
    assert due(Account(10), 10, 10.5, 10.8, 11) == [False, False, False, True]


def test_a_timer_that_is_a_little_early_makes_no_stream_wait_for_the_next() -> None:
    assert due(Account(10), 10.999) == [True]


@pytest.mark.parametrize("in_any_case", [False, True])
def test_a_young_stream_costs_nothing(in_any_case: bool) -> None:
    account = Account(10)
    assert due(account, 10.1, 10.8, sent=5, consumed=9, in_any_case=in_any_case) == [False, False]


def test_what_does_not_move_is_told_three_times() -> None:
    assert due(Account(0), 1, 2, 3, 4, 5) == [True, True, True, False, False]


@pytest.mark.parametrize("moved", [{"sent": 1}, {"consumed": 256}])
def test_what_has_moved_is_told_three_times_more(moved: dict[str, int]) -> None:
    account = Account(0)
    due(account, 1, 2, 3, 4)
    assert due(account, 5, 6, 7, 8, **moved) == [True, True, True, False]
    assert (account.sent, account.consumed) == (moved.get("sent", 0), moved.get("consumed", 0))


def test_what_moves_on_is_told_as_long_as_it_does() -> None:
    account = Account(0)
    assert [account.is_due(at, at, 0, False) for at in range(1, 20)] == [True] * 19
    assert due(account, 20, 21, 22, sent=19) == [True, True, False]


def test_what_waits_is_told_every_time() -> None:
    account = Account(0)
    assert due(account, *range(1, 10), in_any_case=True) == [True] * 9
    assert due(account, 10) == [False]


# Delivery: a message that is no good costs itself alone, and what follows it in the same read is delivered.


#: Nobody has its stream: it is counted as ``gone`` wherever it comes.
MARK = m.encode(m.Window("0123456789.zzz", 0, WORKER, 0))
_COMES_TO = ("messages_delivered", "messages_repeated", "messages_dropped{")


def _named(message: m.Message) -> str:
    return type(message).__name__


def _about(message: Any, stream: str, peer: str) -> Any:
    """The same of this stream, as if this process had sent it."""
    fields = {name: peer for name in ("worker", "sender") if name in message.__struct_fields__}
    if isinstance(message, m.Sync):
        return replace(message, entries=[m.SyncEntry(stream, 0, 0, 0)], **fields)
    return replace(message, stream=stream, **fields) if hasattr(message, "stream") else replace(message, **fields)


def _came(counters: Counters) -> int:
    """Messages that have come, whatever became of them. A receipt is none, and says how many did not come."""
    counted = counters.statistics()
    lost = counted.pop("messages_dropped{broker}", 0)
    assert lost >= 0
    return sum(count for name, count in counted.items() if name.startswith(_COMES_TO))


def _to_server(payloads: Iterable[bytes], world: World) -> None:
    for payload in payloads:
        came, gone = _came(world.counters), world.counters.value("messages_dropped", "gone")
        world.node.push(world.clusters.home.inbox, [payload, MARK])
        world.settle()
        assert world.counters.value("messages_dropped", "gone") > gone, payload
        assert _came(world.counters) - came in (1, 2), payload
        world.worker.heard()


def _answers(world: World) -> bool:
    client = world.client(GET)
    world.worker.jobs()[-1].respond(body=b"heard")
    return client.received().endswith(b"heard")


@pytest.mark.parametrize("message", [*TO_SERVER, *TO_BOTH], ids=_named)
def test_to_a_server(message: m.Message, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    client = world.client(GET)
    _to_server(spoiled(_about(message, world.worker.job().stream, WORKER)), world)
    assert _answers(world)
    world.advance(5.0)
    assert _answers(world)
    client.leave()
    assert "could not be handled" not in caplog.text
    assert "\n.b" not in caplog.text, "a line of the log is forged"


@given(st.data(), st.sampled_from([*TO_SERVER, *TO_BOTH]))
def test_mangled_to_a_server(data: st.DataObject, message: m.Message) -> None:
    world = World()
    world.client(GET)
    _to_server([data.draw(mangled(_about(message, world.worker.job().stream, WORKER)))], world)
    assert _answers(world)


def _to_worker(payloads: list[bytes]) -> None:
    async def act(stage: Stage) -> None:
        stage.ask(get("/wait"))
        await stage.claim_time()
        counters = stage.clusters.counters
        for payload in payloads:
            came, gone = _came(counters), counters.value("messages_dropped", "gone")
            stage.node.push(stage.clusters.home.inbox, [payload, MARK])
            await turns(3)
            assert counters.value("messages_dropped", "gone") > gone, payload
            assert _came(counters) - came in (1, 2), payload
        await stage.advance(3.0)
        stage.application.go()

    played(act)


@pytest.mark.parametrize("message", [*TO_WORKER, *TO_BOTH], ids=_named)
def test_to_a_worker(message: m.Message, caplog: pytest.LogCaptureFixture) -> None:
    _to_worker(list(spoiled(_about(message, worker_stage.STREAM, worker_stage.SERVER))))
    assert "could not be handled" not in caplog.text
    assert "a\n" not in caplog.text, "a line of the log is forged"


@given(st.data(), st.sampled_from([*TO_WORKER, *TO_BOTH]))
def test_mangled_to_a_worker(data: st.DataObject, message: m.Message) -> None:
    _to_worker([data.draw(mangled(_about(message, worker_stage.STREAM, worker_stage.SERVER)))])


def _pulled(payloads: list[bytes], late: bool = False) -> None:
    """Each is followed by a request that is good, in one read.

    Args:
        late: it is too late to begin any of the former, where that can be said of them at all.
    """

    async def act(stage: Stage) -> None:
        if late:
            stage.clock.advance(1e6)
        for number, payload in enumerate(payloads):
            came = _came(stage.clusters.counters)
            stage.node.push(channels.HTTP_REQUEST, [payload, m.encode(get("/fast", f"{number:x}x", deadline=1e12))])
            await turns(20)
            answered = {message.stream.partition(".")[2] for message in stage.heard()}
            assert f"{number:x}x" in answered, payload
            assert _came(stage.clusters.counters) - came == 2, payload

    played(act)


REQUESTS = [replace(each, reply_channel=worker_stage.CHANNEL) for each in (REQUEST, CONNECT)]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("message", REQUESTS, ids=_named)
def test_requests(message: m.Message, late: bool, caplog: pytest.LogCaptureFixture) -> None:
    _pulled(list(spoiled(message)), late)
    assert "could not be" not in caplog.text


@given(st.data(), st.sampled_from(REQUESTS), st.booleans())
def test_mangled_requests(data: st.DataObject, message: m.Message, late: bool) -> None:
    _pulled([data.draw(mangled(message))], late)
