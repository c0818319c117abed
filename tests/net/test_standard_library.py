"""What a worker imports leaves the standard library as it is.

Each test runs in a process of its own: here pytest has imported Twisted long ago.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

#: Modules of the standard library that are looked at. What is imported beyond them is looked at too.
MODULES = (
    "abc, argparse, asyncio, collections.abc, concurrent.futures, contextlib, copyreg, csv, ctypes, dataclasses, "
    "datetime, decimal, email.message, enum, functools, gc, http.client, http.cookiejar, http.server, importlib.abc, "
    "importlib.machinery, io, json, locale, logging.handlers, mimetypes, multiprocessing, numbers, pickle, queue, "
    "random, selectors, signal, socket, socketserver, ssl, string, subprocess, tempfile, threading, types, typing, "
    "unittest, urllib.request, uuid, warnings, weakref, xml.dom.minidom, zipimport"
)

#: Sees what is there, and what a worker's child does until it has loaded the application, with and without Redis.
LOOK = f"""
import {MODULES}
import json, os, sys

def classes():
    found = {{}}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in sys.stdlib_module_names:
            for value in list(vars(module).values()):
                for cls in value.__mro__ if isinstance(value, type) else ():
                    # (Python 3.14 fills the last two in when it needs them.)
                    found[cls] = set(vars(cls)) - {{"__annotate_func__", "__annotations_cache__"}}
    return found

def state():
    return {{
        "pickling": dict(copyreg.dispatch_table),
        "excepthook": sys.excepthook, "unraisablehook": sys.unraisablehook, "displayhook": sys.displayhook,
        "thread's excepthook": threading.excepthook, "threads": threading.enumerate(),
        "meta_path": list(sys.meta_path), "path_hooks": list(sys.path_hooks), "path": list(sys.path),
        "standard streams": (sys.stdin, sys.stdout, sys.stderr),
        "builtins": dict(vars(__builtins__)),
        "environment": dict(os.environ), "locale": locale.setlocale(locale.LC_ALL), "folder": os.getcwd(),
        "showwarning": warnings.showwarning, "warnings' filters": list(warnings.filters),
        "root logger": (logging.root.level, list(logging.root.handlers), logging.getLoggerClass(), logging.lastResort),
        "socket's timeout": socket.getdefaulttimeout(),
        "garbage": (gc.isenabled(), gc.get_threshold(), gc.callbacks[:]),
        "recursion": sys.getrecursionlimit(), "switching": sys.getswitchinterval(),
        "signals": {{number: signal.getsignal(number) for number in signal.valid_signals()}},
    }}

def changes():
    after = classes()
    found = [
        f"{{cls.__module__}}.{{cls.__qualname__}}: {{sorted(after[cls] ^ names)}}"
        for cls, names in before.items() if after[cls] != names
    ]
    return found + [
        f"{{cls.__module__}}.{{cls.__qualname__}}: {{name}}"
        for cls, names in after.items() for name in names
        if name in ("__implemented__", "__provides__", "__providedBy__")
    ] + [what for what, value in state().items() if value != was[what]]

before, was = classes(), state()
"""

IMPORT = """
from ifserver import cli, logs
from ifserver.config.settings import LogSettings
from ifserver.services import lifecycle
logs.configure(LogSettings(), python_warnings=False)
lifecycle.install_reactor()
import ifserver.worker.application, ifserver.services.worker
"""


def run(code: str) -> Any:
    """What `code` prints, as JSON."""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    return json.loads(result.stdout)


def test_a_worker_changes_nothing() -> None:
    redis = "import ifserver.layers.redis.node"
    first, second = run(f"{LOOK}{IMPORT}first = changes()\n{redis}\nprint(json.dumps([first, changes()]))")
    assert first == second == []


def test_the_check_sees_changes() -> None:
    code = "class C(abc.ABC): ...\nzope.interface.implementedBy(C)\ncopyreg.pickle(C, str)\nsys.excepthook = print"
    found = run(f"{LOOK}import zope.interface\n{code}\nprint(json.dumps(changes()))")
    marks = ["__implemented__", "__providedBy__", "__provides__"]
    assert {f"abc.ABC: {marks}", f"abc.ABCMeta: {marks}", "pickling", "excepthook"} <= set(found)


def test_a_worker_without_redis_loads_neither_its_client_nor_what_is_the_supervisor_s() -> None:
    loaded = run(f"{IMPORT}import json, sys\nprint(json.dumps(list(sys.modules)))")
    assert {"txredisapi", "twisted.application", "ifserver.observe.admin", "ifserver.process.supervisor"}.isdisjoint(
        loaded
    )


#: An application's own use of zope.interface, on classes whose bases are the standard library's.
DECLARE = """
import ifserver.net.standard_library
import abc, dataclasses, gc, json, sched, typing, weakref, zope.interface as zi
from zope.interface import declarations
T = typing.TypeVar("T")
class I(zi.Interface): ...
class J(I): ...
class K(zi.Interface): ...
@zi.implementer(I)
class A(abc.ABC, typing.Generic[T]): ...
class B(A[int]): ...
@zi.implementer(J)
class C(B): ...
c = C()
zi.alsoProvides(c, K)
out = [zi.providedBy(x) for x in (A(), B(), C(), c)]
seen = [[i.__name__ for i in each] for each in out]
"""


def test_declarations_of_an_application_work() -> None:
    assert run(f"{DECLARE}print(json.dumps(seen))") == [["I"], ["I"], ["J", "I"], ["K", "J", "I"]]


def test_an_application_may_declare_what_a_class_of_the_standard_library_implements() -> None:
    code = """
zi.classImplements(sched.scheduler, I)
class Mine(sched.scheduler): ...
answers = [I.providedBy(sched.scheduler()), I.implementedBy(Mine), J.providedBy(Mine()), I.providedBy(c)]
zi.classImplementsOnly(sched.scheduler, K)
answers += [I.providedBy(sched.scheduler()), K.implementedBy(Mine)]
zi.directlyProvides(sched.scheduler, J)
answers += [J.providedBy(sched.scheduler), J.providedBy(sched.scheduler()), "__implemented__" in vars(sched.scheduler)]
print(json.dumps(answers))
"""
    assert run(DECLARE + code) == [True, True, False, True, False, True, True, False, False]


def test_a_class_that_only_says_to_be_of_the_standard_library_is_not_kept_alive() -> None:
    code = """
made = dataclasses.make_dataclass("Made", ["x"])
made.__module__ = "types"
zi.implementedBy(made)
marked, made = "__implemented__" in vars(made), weakref.ref(made)
gc.collect()
print(json.dumps([marked, made() is None]))
"""
    assert run(DECLARE + code) == [True, True]


def test_a_zope_interface_without_that_registry_is_left_alone() -> None:
    code = """
import ifserver.net.standard_library as s, json
from zope.interface import declarations
registry = declarations.BuiltinImplementationSpecifications
s.keep_classes()
same = declarations.BuiltinImplementationSpecifications is registry
del declarations.BuiltinImplementationSpecifications
s.keep_classes()
print(json.dumps([same, hasattr(declarations, "BuiltinImplementationSpecifications")]))
"""
    assert run(code) == [True, False]
