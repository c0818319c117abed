"""The storeys of the house: who may import whom, as data, and that the check of it can fail."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "ifserver"

#: Group -> (storey, its modules; ``x.*`` is everything in a package). A module may import from its own group and from
#: lower storeys; groups on one storey know nothing of each other.
STOREYS: dict[str, tuple[int, tuple[str, ...]]] = {
    "pure": (
        0,
        (
            "__init__", "asgi_events", "channels", "clock", "errors", "flow_control", "headers", "messages", "metrics",
            "status", "config.*", "state_machines.*", "worker_ledger",
        ),
    ),
    "net": (1, ("net.*",)),
    "sources": (1, ("config.sources", "config.command_line")),
    "arguments": (2, ("config.arguments",)),
    "logs": (1, ("logs.*",)),
    "layers": (2, ("layers.*",)),
    "front": (3, ("front.*",)),
    "worker": (3, ("worker.*",)),
    "process": (4, ("process.*",)),
    "reactor": (5, ("process.reactor",)),
    "observe": (5, ("observe.*",)),
    "services": (6, ("services.*", "groups.*")),
    "programs": (7, ("django.*", "testing.*")),
    "command": (8, ("__main__", "cli", "commands.*", "observe.viewer.command", "testing.child",
                    "django.management.commands.ifserver")),
}  # fmt: skip

#: All that storey 0 may import: what does no I/O, reads no clock and runs no loop.
PURE = {
    "__future__", "abc", "bisect", "collections", "dataclasses", "difflib", "enum", "functools", "ipaddress",
    "itertools", "math", "msgspec", "re", "secrets", "textwrap", "tomllib", "types", "typing", "urllib.parse",
}  # fmt: skip

#: What a group may import for its types only: at run time it is handed the objects.
FOR_TYPES_ONLY = {"observe": {"front", "process"}}

#: Libraries with one importer each.
ONLY_IMPORTERS = {
    "autobahn": "front.websocket.frames",
    "httptools": "front.http1.parser",
    "txredisapi": "layers.redis.connection",
    "watchfiles": "process.reload",
}

#: Importing the first installs a reactor; the others are there to install one.
REACTORS = ("twisted.internet.reactor", "twisted.internet.default")


class Import(NamedTuple):
    """One import: by whom, of what (``ifserver`` left out of our own names), and whether only for types."""

    importer: str
    target: str
    line: int
    ours: bool
    for_types: bool


def imports_of(sources: Mapping[str, str]) -> Iterator[Import]:
    """Every import in every module, wherever it stands."""
    for importer, source in sources.items():
        for name, line, for_types in _imports_in(importer, source):
            ours = name.split(".")[0] == "ifserver"
            target = _module(name, sources) if ours else name
            yield Import(importer, target, line, ours, for_types)


@functools.cache
def _imports_in(importer: str, source: str) -> list[tuple[str, int, bool]]:
    """The names that a module imports, their lines, and whether only for types."""
    tree = ast.parse(source)
    guarded = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for child in ast.walk(statement)
    }
    return [
        (name, getattr(node, "lineno", 0), id(node) in guarded)
        for node in ast.walk(tree)
        for name in _names(importer, node)
    ]


def _names(importer: str, node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        parents = ["ifserver", *importer.split(".")][: -node.level]
        base = ".".join([*parents, base]) if base else ".".join(parents)
    return [f"{base}.{alias.name}" for alias in node.names]


def _module(name: str, sources: Mapping[str, str]) -> str:
    """The module in which `name` is, or which it is."""
    parts = name.split(".")[1:]
    while parts:
        for module in (".".join(parts), ".".join([*parts, "__init__"])):
            if module in sources:
                return module
        parts.pop()
    return "__init__"


def group_of(module: str) -> str | None:
    """The group that names the module itself, or else its package."""
    for name in (module, f"{module.split('.')[0]}.*"):
        for group, (_, members) in STOREYS.items():
            if name in members:
                return group
    return None


def complaints(sources: Mapping[str, str]) -> list[str]:
    """Everything that is wrong with the imports of `sources` (module -> text), one line each."""
    found = [
        f"{module}: in no storey; put it into STOREYS of tests/test_layering.py, as low as its imports allow"
        for module in sources
        if group_of(module) is None
    ]
    if found:
        return found
    imports = list(imports_of(sources))
    for each in imports:
        found += [f"{each.importer}:{each.line}: {why}" for why in _wrong(each)]
    return found + _cycles(imports)


def _wrong(each: Import) -> Iterator[str]:
    importer = group_of(each.importer)
    assert importer is not None
    if each.ours:
        target = group_of(each.target)
        assert target is not None
        if importer != target and STOREYS[importer][0] <= STOREYS[target][0]:
            yield f"{importer} imports {each.target}, which is of {target}"
        elif target in FOR_TYPES_ONLY.get(importer, ()) and not each.for_types:
            yield f"{importer} may import {each.target} for its types only"
        return
    library = each.target.split(".")[0]
    if importer == "pure" and library not in PURE and ".".join(each.target.split(".")[:2]) not in PURE:
        yield f"the pure storey imports {each.target}"
    if ONLY_IMPORTERS.get(library, each.importer) != each.importer:
        yield f"{library} is imported by {ONLY_IMPORTERS[library]} only"
    parts = each.target.split(".")
    is_reactor = each.target.startswith(REACTORS) or (
        parts[:2] == ["twisted", "internet"] and any(part != "reactor" and part.endswith("reactor") for part in parts)
    )
    if is_reactor and each.importer != "process.reactor":
        yield f"{each.target} is a reactor, which only process/reactor.py may ask for or install"


def _cycles(imports: list[Import]) -> list[str]:
    """The cycles among our modules. An annotation of what an object is handed makes none: nothing is run for it."""
    graph: dict[str, set[str]] = {}
    for each in imports:
        if each.ours and not each.for_types:
            graph.setdefault(each.importer, set()).add(each.target)
    done: set[str] = set()
    found: list[str] = []

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append("a cycle: " + " -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


@functools.cache
def package() -> dict[str, str]:
    """The modules of ifserver with their texts; a package goes by the name of its ``__init__``."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def test_every_module_imports_only_what_its_storey_may() -> None:
    assert complaints(package()) == []


def test_the_whole_package_is_read() -> None:
    modules = package()
    assert {"errors", "state_machines.http", "layers.redis.node", "front.http1.parser", "worker.stream"} <= set(modules)
    targets = {(each.importer, each.target) for each in imports_of(modules)}
    assert ("state_machines.http", "state_machines.stream") in targets
    assert ("front.websocket.opening", "headers") in targets
    assert ("front.http1.parser", "httptools") in targets


@pytest.mark.parametrize("library", sorted(ONLY_IMPORTERS))
def test_each_library_still_has_its_importer(library: str) -> None:
    """So that a library which is imported nowhere any more leaves the table too."""
    importers = {each.importer for each in imports_of(package()) if each.target.split(".")[0] == library}
    assert importers == {ONLY_IMPORTERS[library]}


#: What the modules below need to exist.
HOUSE = {
    "__init__": "",
    "errors": "",
    "channels": "",
    "layers.__init__": "",
    "layers.node": "",
    "front.exchange": "",
    "worker.stream": "",
    "services.server": "",
    "observe.page": "",
}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("channels", "from ifserver.layers.node import Node", "pure imports layers.node, which is of layers"),
        ("channels", "from ifserver.layers import node", "pure imports layers.node"),
        ("channels", "from .layers import node", "pure imports layers.node"),
        ("channels", "import ifserver.layers.node as b", "pure imports layers.node"),
        ("channels", "from ifserver import layers", "pure imports layers.__init__"),
        ("channels", "def f():\n    from ifserver.services import server", "channels:2: pure imports services.server"),
        ("channels", "if TYPE_CHECKING:\n    from ifserver.services import server", "pure imports services.server"),
        ("layers.node", "from ifserver.front.exchange import x", "layers imports front.exchange"),
        ("layers.node", "from ..front import exchange", "layers imports front.exchange"),
        (
            "front.exchange",
            "from ifserver.worker import stream",
            "front imports worker.stream, which is of worker",
        ),
        (
            "worker.stream",
            "if t.TYPE_CHECKING:\n    from ifserver.front import exchange",
            "worker imports front.exchange",
        ),
        ("process.supervisor", "from ifserver.services.server import x", "process imports services.server"),
        ("observe.page", "from ifserver.front import exchange", "may import front.exchange for its types only"),
        ("state_machines.http", "import asyncio", "the pure storey imports asyncio"),
        ("state_machines.http", "import time", "the pure storey imports time"),
        ("state_machines.http", "from socket import socket", "the pure storey imports socket.socket"),
        ("state_machines.http", "from urllib.request import urlopen", "the pure storey imports urllib.request"),
        ("state_machines.http", "from twisted.internet.defer import Deferred", "the pure storey imports twisted"),
        ("front.exchange", "import autobahn.twisted.websocket", "autobahn is imported by front.websocket.frames only"),
        ("front.exchange", "from httptools import parser", "httptools is imported by front.http1.parser only"),
        ("layers.node", "import txredisapi as t", "txredisapi is imported by layers.redis.connection only"),
        ("services.server", "def f():\n    import watchfiles", "watchfiles is imported by process.reload only"),
        ("front.exchange", "from twisted.internet import reactor", "twisted.internet.reactor is a reactor"),
        (
            "services.server",
            "def f():\n    import twisted.internet.reactor as r",
            "twisted.internet.reactor is a reactor",
        ),
        ("services.server", "from twisted.internet import asyncioreactor", "asyncioreactor is a reactor"),
        ("services.server", "from twisted.internet.epollreactor import install", "epollreactor.install is a reactor"),
        ("front.exchange", "from ifserver.front import exchange", "a cycle: front.exchange -> front.exchange"),
        ("cli", "def f():\n    from twisted.internet import reactor", "reactor is a reactor"),
        ("errors", "from ifserver import channels", "a cycle: channels -> errors -> channels"),
        (
            "errors",
            "if True:\n    from ifserver.channels import x",
            "a cycle: channels -> errors -> channels",
        ),
        ("surprise", "", "surprise: in no storey; put it into STOREYS"),
        ("cellar.wine", "", "cellar.wine: in no storey"),
    ],
)
def test_the_check_sees_what_breaks_the_rules(module: str, source: str, complaint: str) -> None:
    house = {**HOUSE, module: source}
    if module == "errors":
        house["channels"] = "from ifserver.errors import E"
    found = complaints(house)
    assert len(found) == 1
    assert complaint in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("process.reactor", "def f():\n    from twisted.internet import asyncioreactor, reactor"),
        ("front.exchange", "from ifserver import __version__, channels\nimport ifserver.layers.node\nimport asyncio"),
        ("front.exchange", "from twisted.internet.interfaces import IReactorTime"),
        ("front.server", "from ifserver.front.exchange import x"),
        ("observe.page", "if TYPE_CHECKING:\n    from ifserver.front.exchange import x"),
        (
            "state_machines.http",
            "from collections.abc import Callable\nfrom urllib.parse import unquote\nimport msgspec",
        ),
        ("layers.redis.connection", "import txredisapi"),
        ("layers.node", "if TYPE_CHECKING:\n    from ifserver.layers import node"),
    ],
)
def test_the_check_lets_pass_what_keeps_them(module: str, source: str) -> None:
    assert complaints({**HOUSE, module: source}) == []
