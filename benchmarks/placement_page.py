"""What `benchmarks.placement` shows: tables (of reStructuredText, and readable as they are), charts and the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.placers import Placing
from benchmarks.simulation import Figures, Plan, Workload
from benchmarks.svg import Chart, Line

__all__ = ["charts", "page", "tables"]

_HEADS: Final = (
    "nodes", "load", "placement", "mean", "p50", "p99", "max", "queue", "longest", "spilled", "timed out",
)  # fmt: skip
#: Where the charts' logarithmic axes begin, in seconds: nobody notices less.
_LOG_FROM_S: Final = 0.01


_PAGE: Final = """\
Where requests are placed
=========================

This page is research, for developers of ifserver: you do not need it to run a site. :doc:`/howto/machines` says how
many nodes and clusters to use.

A server that knows several nodes has to choose one for each request. ``ifserver`` takes two at random and, of these,
the one whose queue was shorter when it last put something there; a queue of which all its own requests have been
claimed it takes for empty. Supervisors say, with their beats, which nodes their workers read: where nobody reads,
nothing is offered while somebody reads elsewhere, and what stands there is taken back at once. A node on which a
request has stood unclaimed for a second is *behind*: it gets one request now and then, to see whether it is read in
time again, and what stands there for so long is offered on another node. Where half of the nodes are behind, no further
one is: then there is too much for all of them, and no single node at fault.

This page shows what comes of that, beside two ways that know nothing of queues: a random node, and one node after the
other (round robin). Neither of these ever takes a request back. *Without beats* is ifserver as it would be if beats did
not say who reads; that differs only where a node fails.

It is a simulation, and no measurement of a network: the rules that decide are those of the product, but time is
virtual, and nothing but waiting costs any. ``python -m benchmarks.placement`` repeats it.

.. image:: placement.svg
   :alt: Four charts of the 99th percentile of waiting times: over load, and while one of eight nodes fails.


Does it matter to you?
----------------------

*Nodes of one cluster* (``--cluster main=redis://one,redis://two``) are all read by every worker of the cluster. A free
worker takes what there is wherever it stands, so placement matters less.

*Clusters with workers of their own*, all used alike (``--placement spread``), are another thing: nobody else reads what
was placed on the wrong one. There a request may stand behind others while workers of another cluster have nothing to
do.

With one node there is nothing to choose.


What to see
-----------

Eight nodes, each a cluster, and exponential times, unless it says otherwise. The slowest hundredth of all requests
waits for longer than this, in seconds:

{waits}

While a node fails, the longest that any request waits, in seconds:

{longest}

So much of all requests times out:

{lost}

* A server knows the length of a queue from its last push there, and nothing of what others have put there since.
* Where all workers read all nodes, a request waits for no particular worker. But one that has fewer free slots than
  there are nodes reads them in turn, and stays at an empty one for up to 0.05 s.
* Of more than can be done, queues grow without end, for everybody; how long the waits are says only for how long it has
  gone on. Half of the nodes are behind then, and what is taken back and offered elsewhere waits a little longer than
  where it is left: at 110 % load {scatter} of ifserver's requests timed out, from one run to another.
* What stands on a node that nobody reads is lost to those who place blindly, and so is what they go on to put there.
* Beats move that in less than a second: a beat is missed when it is 0.8 s old, and servers ask every 0.2 s. Without
  them it takes a second until a node is behind, and each probe waits for as long again.

A node that fails takes its part of the work with it where it has workers of its own. If the others cannot do that
work, no placement can help: see the failures at 90 % load and two nodes. With a single node, what stands there
waits for it.


What is simulated
-----------------

* {servers} servers, which get requests at random moments (a Poisson process), each as many as the other. Their home
  clusters are different ones, as far as there are enough.
* For each node one worker process, which does {slots} requests at once; one takes {service_s:g} s on average.
  *Exponential* times vary moderately. *Heavy-tailed* ones are log-normal: half of them are below 0.033 s, one in a
  hundred is above 1 s, and one in a thousand above 3 s.
* Load is what arrives, as a part of what all workers can do.
* It begins with empty queues and lasts {seconds:g} s. With few nodes it is repeated, so that chance shows less.
* *A node fails*: nobody reads the first node from {fails_s:g} s to {back_s:g} s, and nobody beats there, as if
  workers and supervisor were killed together. Its own worker, if it has one, finishes what it holds.
* A request that nobody takes for {queue_timeout_s:g} s times out. (The product's default is 30 s; this is
  less, so that a failure of {lasts_s:g} s is long enough.)
* Each way of placing gets the same requests at the same times (seed {seed}).

Not simulated: requests that leave a server together, the time that anything but the answer to a push is on its way,
nodes that refuse or are full, and more than one failure.


All figures
-----------

Waiting times (mean, 50th and 99th percentile, longest) are in seconds, from a request's arrival until a worker takes
it. One that timed out counts with all of its time, one that still waits at the end with its time so far. *Queue*
is the mean length of a node's queue, *longest* the greatest that was seen. *Spilled* is the part of requests that
were taken back and offered elsewhere.
"""


#: Those that differ wherever there is a choice.
_SHOWN: Final = (Placing.OURS, Placing.RANDOM, Placing.ROUND_ROBIN)
#: What the page begins with: a name for people, and how the plan differs from eight nodes, apart, at 90 % load.
_SITUATIONS: Final[dict[str, dict[str, Any]]] = {
    "70 % load": {"load": 0.7},
    "90 % load": {},
    "90 % load, workers read all nodes": {"apart": False},
    "70 % load, two nodes": {"nodes": 2, "load": 0.7},
    "70 % load, a node fails": {"load": 0.7, "failing": True},
    "90 % load, a node fails": {"failing": True},
    "110 % load": {"load": 1.1},
    "110 % load, workers read all nodes": {"load": 1.1, "apart": False},
}


def setting(plan: Plan) -> str:
    """What the plans of one table have in common, for people."""
    workers = "One cluster for each node" if plan.apart else "One cluster, workers read all nodes"
    return f"{workers}, {plan.workload.value} times" + (", a node fails" if plan.failing else "")


def tables(results: Mapping[Plan, Figures]) -> Iterator[tuple[str, str]]:
    """For each setting its name and its table."""
    rows: dict[str, list[tuple[str, ...]]] = {}
    for plan, figures in results.items():
        # Where there is no choice, all do the same.
        if plan.nodes > 1 or plan.placing is Placing.OURS:
            rows.setdefault(setting(plan), []).append(_row(plan, figures))
    for name, lines in rows.items():
        yield name, table(_HEADS, lines)


def _row(plan: Plan, figures: Figures) -> tuple[str, ...]:
    times = (figures.mean_s, figures.p50_s, figures.p99_s, figures.max_s)
    return (
        str(plan.nodes),
        f"{plan.load:.0%}",
        plan.placing.value if plan.nodes > 1 else "any",
        *(f"{seconds:.3f}" for seconds in times),
        f"{figures.mean_queue:.1f}",
        str(figures.longest_queue),
        f"{figures.spilled / figures.arrived:.1%}" if figures.spilled else "0",
        f"{figures.timed_out / figures.arrived:.1%}" if figures.timed_out else "0",
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A simple table of reStructuredText."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    right = [all(map(_is_number, column)) for column in zip(*rows, strict=True)]
    lines = []
    for cells in (heads, *rows):
        padded = (
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(cells, widths, right, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def _is_number(cell: str) -> bool:
    return cell.removesuffix("%").replace(".", "", 1).isdigit()


def charts(results: Mapping[Plan, Figures]) -> list[Chart]:
    """Waiting times over load, and the course of a failure, for eight nodes."""
    return [
        _over_load(results, "One cluster for each node", Workload.EXPONENTIAL, apart=True),
        _over_load(results, "One cluster for each node, heavy tail", Workload.HEAVY, apart=True),
        _over_load(results, "One cluster, workers read all nodes", Workload.EXPONENTIAL, apart=False),
        _course(results),
    ]


def _over_load(results: Mapping[Plan, Figures], title: str, workload: Workload, apart: bool) -> Chart:
    lines = []
    for placing in _SHOWN:
        points = tuple(
            (plan.load * 100, figures.p99_s)
            for plan, figures in results.items()
            if (plan.placing, plan.nodes, plan.workload, plan.apart, plan.failing)
            == (placing, 8, workload, apart, False)
        )
        lines.append(Line(placing.value, points))
    return Chart(title, "load, %", "99th percentile of waiting, s", tuple(lines), _LOG_FROM_S)


def _course(results: Mapping[Plan, Figures]) -> Chart:
    lines = []
    for placing in Placing:
        figures = _of(results, placing=placing, load=0.7, failing=True)
        lines.append(Line(placing.value, tuple((float(at), p99) for at, p99 in enumerate(figures.course_s))))
    fails, back = (next(iter(results)).seconds * part for part in (1 / 2, 3 / 4))
    title = f"One of 8 fails at {fails:g} s and is back at {back:g} s, 70 % load"
    return Chart(title, "time of arrival, s", "99th percentile of waiting, s", tuple(lines), _LOG_FROM_S)


def _of(
    results: Mapping[Plan, Figures],
    *,
    placing: Placing,
    nodes: int = 8,
    load: float = 0.9,
    apart: bool = True,
    failing: bool = False,
) -> Figures:
    """The figures of one exponential plan."""
    wanted = (placing, nodes, load, apart, failing, Workload.EXPONENTIAL)
    return next(
        figures
        for plan, figures in results.items()
        if (plan.placing, plan.nodes, plan.load, plan.apart, plan.failing, plan.workload) == wanted
    )


def page(results: Mapping[Plan, Figures]) -> str:
    """The page for users."""
    first = next(iter(results))
    parts = [
        _PAGE.format(
            servers=first.servers,
            slots=first.slots,
            service_s=first.service_s,
            seconds=first.seconds,
            queue_timeout_s=first.queue_timeout_s,
            seed=first.seed,
            fails_s=first.seconds / 2,
            back_s=first.seconds * 3 / 4,
            lasts_s=first.seconds / 4,
            scatter=_scatter(_of(results, placing=Placing.OURS, load=1.1)),
            waits=_highlights(results, lambda figures: f"{figures.p99_s:.2f}"),
            longest=_highlights(results, lambda figures: f"{figures.max_s:.2f}", failing=True),
            lost=_highlights(results, lambda figures: f"{figures.timed_out / figures.arrived:.1%}"),
        )
    ]
    for name, text in tables(results):
        parts.append(f"{name}\n{'~' * len(name)}\n\n{text}\n")
    return "\n".join(parts)


def _scatter(figures: Figures) -> str:
    """The least and the most that timed out in one run."""
    return f"{min(figures.lost):.1%} to {max(figures.lost):.1%}"


def _highlights(results: Mapping[Plan, Figures], show: Callable[[Figures], str], failing: bool = False) -> str:
    """A table of one figure in the situations that say most, or in those of them in which a node fails."""
    shown = tuple(Placing) if failing else _SHOWN
    rows = [
        (name, *(show(_of(results, placing=placing, **which)) for placing in shown))
        for name, which in _SITUATIONS.items()
        if which.get("failing") or not failing
    ]
    return table(("", *(placing.value for placing in shown)), rows)
