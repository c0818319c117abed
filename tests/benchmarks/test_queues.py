"""How worker processes read their nodes in virtual time."""

from __future__ import annotations

from benchmarks.queues import ROUND_WAIT_S, Agenda, Node, Process, Request


class Taken:
    """Whoever offered the requests: notes who was claimed when and where."""

    def __init__(self, agenda: Agenda) -> None:
        self.agenda = agenda
        self.notes: list[tuple[float, str, float]] = []

    def claimed(self, request: Request, node: Node) -> None:
        self.notes.append((self.agenda.now, node.name, request.service_s))

    def offer(self, node: Node, service_s: float) -> Request:
        request = Request(self.agenda.now, service_s, self)
        node.push(request)
        return request


def test_events_happen_in_order_and_those_of_one_time_as_they_were_entered() -> None:
    agenda = Agenda()
    seen: list[tuple[str, float]] = []
    for delay_s, name in ((2.0, "c"), (1.0, "a"), (1.0, "b"), (3.0, "d")):
        agenda.later(delay_s, lambda name: seen.append((name, agenda.now)), name)
    agenda.run_until(3.0)
    assert seen == [("a", 1.0), ("b", 1.0), ("c", 2.0)]
    assert agenda.now == 3.0


def test_a_process_takes_what_it_has_slots_for_and_the_rest_in_order() -> None:
    agenda = Agenda()
    node, taken = Node("n"), Taken(agenda)
    for service_s in (1.0, 2.0, 3.0, 4.0):
        taken.offer(node, service_s)
    Process(agenda, [node], slots=2).resume()
    agenda.run_until(10)
    assert taken.notes == [(0.0, "n", 1.0), (0.0, "n", 2.0), (1.0, "n", 3.0), (2.0, "n", 4.0)]
    assert node.length == 0


def test_a_push_is_told_the_length_before_anybody_takes_it() -> None:
    agenda = Agenda()
    node, taken = Node("n"), Taken(agenda)
    Process(agenda, [node], slots=1).resume()
    assert node.push(Request(0.0, 1.0, taken)) == 1
    assert node.length == 0
    assert node.push(Request(0.0, 1.0, taken)) == 1
    assert node.push(Request(0.0, 1.0, taken)) == 2
    assert node.offers == 3


def test_a_slot_for_fewer_than_all_nodes_goes_round_them() -> None:
    agenda = Agenda()
    nodes, taken = [Node("a"), Node("b"), Node("c")], Taken(agenda)
    Process(agenda, nodes, slots=1).resume()
    # It waits at the first one.
    taken.offer(nodes[2], 1.0)
    agenda.run_until(10 * ROUND_WAIT_S)
    assert taken.notes == [(2 * ROUND_WAIT_S, "c", 1.0)]


def test_with_slots_for_all_nodes_each_is_read() -> None:
    agenda = Agenda()
    nodes, taken = [Node("a"), Node("b"), Node("c")], Taken(agenda)
    Process(agenda, nodes, slots=6).resume()
    for node in nodes:
        taken.offer(node, 1.0)
    assert [name for _, name, _ in taken.notes] == ["a", "b", "c"]


def test_a_node_that_nobody_can_read_is_read_again_later() -> None:
    agenda = Agenda()
    nodes, taken = [Node("a"), Node("b")], Taken(agenda)
    Process(agenda, nodes, slots=4).resume()
    nodes[0].close()
    taken.offer(nodes[0], 1.0)
    taken.offer(nodes[1], 1.0)
    agenda.run_until(5)
    assert [name for _, name, _ in taken.notes] == ["b"]
    nodes[0].open()
    assert [name for _, name, _ in taken.notes] == ["b", "a"]


def test_what_was_taken_back_is_not_given_out() -> None:
    agenda = Agenda()
    node, other, taken = Node("a"), Node("b"), Taken(agenda)
    first = taken.offer(node, 1.0)
    taken.offer(node, 2.0)
    node.leave(first)
    assert node.length == 1
    other.push(first)
    Process(agenda, [node], slots=4).resume()
    assert taken.notes == [(0.0, "a", 2.0)]
    assert first.node is other
