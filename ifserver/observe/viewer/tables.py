"""A status as tables of rich."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from ifserver.status import Facts, PoolStatus, Status, StreamStatus

#: By what streams can be sorted: the value, and whether the greatest comes first.
SORTS: Final[Mapping[str, tuple[Callable[[StreamStatus], Any], bool]]] = {
    "age": (lambda stream: stream.age_s or 0.0, True),
    "unsent": (lambda stream: stream.unsent_bytes, True),
    "state": (lambda stream: stream.state, False),
    "worker": (lambda stream: stream.owner, False),
    "request": (lambda stream: stream.path, False),
    "channel": (lambda stream: stream.channel, False),
}
#: Events that are shown: the newest.
_EVENTS: Final = 10
#: Columns whose texts differ at their ends.
_WHOLE: Final = frozenset({"channel"})
_SHOWN_AGES: Final = ((120.0, 1.0, "s"), (7_200.0, 60.0, "min"), (172_800.0, 3_600.0, "h"))


def head(status: Status) -> Text:
    """The process that reports this, and whether it is ready."""
    me = status.me
    text = Text(f"{me.kind} {me.process} on {_plain(me.host)}, process id {me.pid}, ifserver {_plain(me.version)}: ")
    if status.unready:
        text.append("not ready: " + _plain("; ".join(status.unready)), "bold red")
    else:
        text.append("ready", "bold green")
    if me.paused:
        text.append(f"; paused: {_plain(paused(me.paused))}, {me.waiting} requests wait", "bold yellow")
    return text


def nodes(status: Status, limit: int | None = None) -> Table:
    """The nodes, and what waits there, in `limit` lines."""
    rows: list[Sequence[Text]] = []
    table = _table("cluster", "node", "answers", "channel", ">length", ">oldest")
    for cluster in status.clusters:
        for node in cluster.nodes:
            name = f"{cluster.name} (home)" if cluster.home else cluster.name
            if node.round_trip_s is not None and node.answers:
                answers = _cut(f"in {node.round_trip_s * 1000:.1f} ms", "green")
            else:
                answers = _cut(_plain(node.why), "bold red")
            for i, queue in enumerate(node.queues or (None,)):
                first = (_text(name), _text(node.name), answers) if i == 0 else (Text(), Text(), Text())
                rest = ("", "", "") if queue is None else (queue.channel, str(queue.length), seconds(queue.age_s))
                rows.append((*first, *map(_text, rest)))
    return _filled(table, rows, limit)


def processes(status: Status, limit: int | None = None, narrow: bool = False) -> Table:
    """Servers, supervisors and workers, and what each holds, in `limit` lines; `narrow`: without what all have in
    common."""
    rows: list[Sequence[Text]] = []
    titles = ["what", "process", "host", ">pid", "node", ">up", ">streams", ">unanswered", ">free", ">connections"]
    left_out = {name for name in ("host", "node") if narrow and len({getattr(p, name) for p in status.processes}) == 1}
    shown = [place for place, title in enumerate(titles) if title not in left_out]
    table = _table(*(titles[place] for place in shown))
    for each in sorted(status.processes, key=lambda facts: (facts.kind, facts.host, facts.process)):
        up = seconds(status.now - each.started_at)
        if each.kind == "server":
            what = "server" if each.listening else "server, not listening"
            what += ", paused" if each.paused else ""
            numbers = [str(each.streams), "", "", str(each.connections)]
        else:
            what = "supervisor"
            numbers = [str(_sum(each, name)) for name in ("streams", "unanswered", "free")] + [""]
        what += ", this one" if each.process == status.me.process else ""
        rows.append([*map(_text, (what, each.process, each.host, str(each.pid), each.node, up, *numbers))])
        for child in each.children:
            what = f"  worker of pool {child.pool}" if child.pool else "  worker"
            what += "" if child.ready else ", not ready"
            held = (child.streams, child.unanswered, child.free)
            row = (what, child.process, "", str(child.pid), "", "", *map(str, held), "")
            rows.append([*map(_text, row)])
    return _filled(table, [[row[place] for place in shown] for row in rows], limit)


def events(status: Status) -> Table:
    """Deploys and faults of the last minutes, the newest last, as they are in the log."""
    rows = []
    for each in status.events[-_EVENTS:]:
        label = f"{each.label} \u00d7{each.times}" if each.times > 1 else each.label
        what = _cut(_plain(label), "bold red" if each.kind == "fault" else "")
        rows.append((_text(f"{seconds(status.now - each.at)} ago"), what, _text(each.process), _text(each.text)))
    return _filled(_table(">when", "what", "process", "event"), rows, None)


def groups(status: Status, limit: int | None = None) -> Table:
    """The largest groups of this server, in `limit` lines."""
    rows: list[Sequence[Text]] = [(_text(each.name), _text(str(each.members))) for each in status.groups]
    return _filled(_table("group", ">members"), rows, limit)


def pools(shown: Sequence[PoolStatus], workers: Mapping[str, int] | None = None) -> Table:
    """Pools side by side, canaries behind the pool that they are of; with `workers` also how many of each are ready."""
    titles = ["pool", ">weight", ">share", ">requests", ">errors", ">", ">p50", ">p95", ">p99"]
    table = _table(*titles, *([">workers"] if workers else []))
    by_name = {pool.name: pool for pool in shown}
    totals: dict[str, float] = {}
    for pool in shown:
        first = pool.canary_of or pool.name
        totals[first] = totals.get(first, 0.0) + (pool.weight or 0.0)
    places = {name: place for place, name in enumerate(by_name)}
    for pool in sorted(shown, key=lambda pool: (places.get(pool.canary_of or pool.name, 0), bool(pool.canary_of))):
        of = by_name.get(pool.canary_of)
        name = f"  {pool.name}, canary of {pool.canary_of}" if pool.canary_of else pool.name
        weight = share = ""
        if pool.weight is not None:
            total = totals[pool.canary_of or pool.name]
            weight = f"{pool.weight:g}{'' if pool.is_ordered else ' (settings)'}"
            share = f"{100 * pool.weight / total:.4g} %" if total else ""
        rate = f"{100 * _rate(pool):.3g} %" if pool.errors else ""
        times = (pool.p50_s, pool.p95_s, pool.p99_s)
        ready = [str(workers.get(pool.name, 0))] if workers else []
        row = (name, weight, share, str(pool.requests), str(pool.errors), rate, *map(_short, times), *ready)
        table.add_row(*map(_text, row), style="bold red" if of is not None and _rate(pool) > _rate(of) else None)
    return table


def paused(pools: Mapping[str, float]) -> str:
    """What is paused, and for how long, for people."""
    return ", ".join(f"{named(name)} for {left_s:.0f} s" for name, left_s in pools.items())


def named(pool: str) -> str:
    """A pool, for people; empty: all of them."""
    return f"pool {pool}" if pool else "all pools"


def _rate(pool: PoolStatus) -> float:
    """Which part of its requests were errors."""
    return pool.errors / pool.requests if pool.requests else 0.0


def _short(value: float | None) -> str:
    """A time that is a part of a second, as a rule."""
    if value is None:
        return ""
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"


def ordered(status: Status, sort: str = "age", reverse: bool = False, wanted: str = "") -> list[StreamStatus]:
    """Those streams in whose description `wanted` is, in the order of one of `SORTS`."""
    key, greatest_first = SORTS[sort]
    wanted = wanted.lower()
    found = [stream for stream in status.streams if wanted in _described(stream).lower()]
    return sorted(found, key=key, reverse=greatest_first is not reverse)


def streams(shown: Sequence[StreamStatus], selected: int | None = None) -> Table:
    """Streams, one of which may be selected."""
    has_pools = any(stream.pool for stream in shown)
    titles = ["channel", "kind", "state", ">age", "worker", "request", ">unsent"]
    table = _table(*titles, *(["pool"] if has_pools else []))
    for i, stream in enumerate(shown):
        request = f"{stream.method} {stream.path}".strip()
        row = (stream.channel, stream.kind, stream.state, seconds(stream.age_s), stream.owner, request)
        unsent = str(stream.unsent_bytes or "")
        pool = [stream.pool or ""] if has_pools else []
        table.add_row(*map(_text, (*row, unsent, *pool)), style="reverse" if i == selected else None)
    return table


def _table(*titles: str) -> Table:
    """With these columns; ``>``: numbers. On a terminal that is too narrow texts are cut, the longest first."""
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for title in titles:
        right = title.startswith(">")
        # rich takes the width from those columns that may wrap, which those with our texts may, and never do.
        whole = right or title in _WHOLE
        table.add_column(_cut(title.removeprefix(">")), justify="right" if right else "left", no_wrap=whole)
    return table


def _filled(table: Table, rows: Sequence[Sequence[Text]], limit: int | None) -> Table:
    if limit is not None and len(rows) > limit:
        left = len(rows) - limit + 1
        rows = [*rows[: limit - 1], (_cut(f"... {left} more", "dim"),)]
    for row in rows:
        table.add_row(*row)
    return table


def _described(stream: StreamStatus) -> str:
    pool = stream.pool or ""
    return " ".join((stream.channel, stream.kind, stream.state, stream.owner, stream.method, stream.path, pool))


def _sum(facts: Facts, name: str) -> int:
    return sum(getattr(child, name) for child in facts.children)


def _plain(text: str) -> str:
    """`text` without what a terminal would take for an order: a path is what some client has sent."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _text(text: str) -> Text:
    return _cut(_plain(text))


def _cut(text: str, style: str = "") -> Text:
    """A text of one line, whatever its room."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def seconds(value: float | None) -> str:
    """A time, for people; empty: there is none."""
    if value is None:
        return ""
    if value < 10:
        return f"{value:.1f} s"
    for limit, unit, name in _SHOWN_AGES:
        if value < limit:
            return f"{value / unit:.0f} {name}"
    return f"{value / 86_400:.0f} d"
