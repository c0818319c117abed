"""What a test gives, as a command line would: the application by its name, and settings as variables."""

from __future__ import annotations

import difflib
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, Final

from ifserver.config.command_line import flags_of
from ifserver.config.configuration import CONFIG_VARIABLE, FILE
from ifserver.config.schema import Kind, Setting
from ifserver.config.settings import SECTIONS, all_settings
from ifserver.config.values import NONE

#: Settings that a server under test has of its own.
_TAKEN: Final[Mapping[str, str]] = {
    "worker.application": "the application is the first argument",
    "layer.clusters": "give redis=URL",
    "listen.fd": "give host= and port=",
    "listen.processes": "a server under test is one process",
}


def variables(given: Mapping[str, Any]) -> dict[str, str]:
    """The variables of the environment that stand for settings given as keywords.

    A keyword is a flag of ``ifserver run`` with underscores (``queue_timeout``, ``workers``), the name of a setting
    (``queue_timeout_s``), or that with its section (``worker_drain_timeout_s``). A list is a list or a tuple.

    Raises:
        TypeError: a keyword is no setting, or none that can be given here.
    """
    __tracebackhide__ = True
    found = {}
    known = _by_keyword()
    for keyword, value in given.items():
        if keyword not in known:
            close = difflib.get_close_matches(keyword, list(known), 1)
            raise TypeError(f"no setting is called {keyword!r}{f': did you mean {close[0]}?' if close else ''}")
        for setting in known[keyword]:
            if setting.path in _TAKEN:
                raise TypeError(f"{keyword}: {_TAKEN[setting.path]}")
            found[setting.variable] = _text(setting, value)
    return found


@functools.cache
def _by_keyword() -> dict[str, tuple[Setting, ...]]:
    found: dict[str, tuple[Setting, ...]] = {}
    # The second has those of the channel layer as well.
    for command in ("run", "serve"):
        for flag in flags_of(command):
            for name in flag.names:
                if name.startswith("--"):
                    found.setdefault(name[2:].replace("-", "_"), flag.settings)
    for keyword, settings in list(found.items()):
        if settings[0].kind is Kind.DURATION:
            found.setdefault(f"{keyword}_s", settings)
    for setting in all_settings().values():
        for keyword in (setting.name, f"{setting.section}_{setting.name}"):
            found.setdefault(keyword, (setting,))
    return found


def _text(setting: Setting, value: Any) -> str:
    """The text of a variable. What it cannot be, the server finds when it starts."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return (setting.separator or " ").join(map(str, value)) or NONE
    return str(value)


def without_settings(environ: Mapping[str, str], cwd: str) -> dict[str, str]:
    """`environ` without the settings of ifserver that are in it, for example those of a production on this machine. A
    file with settings in the folder `cwd` is not read either."""
    sections = tuple(f"IFSERVER_{section}_".upper() for section in SECTIONS)
    rest = {name: value for name, value in environ.items() if not name.startswith(sections) and name != "PORT"}
    rest.pop(CONFIG_VARIABLE, None)
    return rest | ({CONFIG_VARIABLE: os.devnull} if os.path.exists(os.path.join(cwd, FILE)) else {})


def name_of(application: Any, app_dir: str = ".") -> str:
    """The ``module:attribute`` under which workers, which are new processes, find what this process has as an object.

    Args:
        app_dir: where they look first.

    Raises:
        TypeError: there is none.
    """
    __tracebackhide__ = True
    if isinstance(application, str):
        return application
    if not callable(application):
        raise TypeError(f"an application is something that can be called, or 'module:attribute'; got {application!r}")
    reason = "no module has it as an attribute"
    for module, attribute in _names(application):
        if _is_importable(module, app_dir):
            return f"{module}:{attribute}"
        reason = f"a new process does not find the module {module!r} by that name"
    raise TypeError(
        f"{application!r} has no name by which workers could import it, and they are new processes: {reason}. Put it "
        "at the top level of a module; or give 'module:attribute', which may also be a function without arguments that "
        "returns the application. What differs from test to test can be given with environment={...}"
    )


def _names(application: Any) -> list[tuple[str, str]]:
    """The module and the attribute of all places where it is found."""
    module, name = getattr(application, "__module__", None), getattr(application, "__qualname__", None)
    names = [(module, name)] if module is not None and name is not None and _is_there(application, module, name) else []
    for module_name, loaded in list(sys.modules.items()):
        for attribute, value in list(getattr(loaded, "__dict__", {}).items()):
            if value is application and isinstance(attribute, str):
                names.append((module_name, attribute))
    # Workers need not import the tests for what these have imported from elsewhere.
    return sorted(names, key=lambda each: _is_test(each[0]))


def _is_there(application: Any, module: str, name: str) -> bool:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is application


def _is_test(module: str) -> bool:
    last = module.rpartition(".")[2]
    return last == "conftest" or last.startswith("test_") or last.endswith("_test")


def _is_importable(name: str, app_dir: str) -> bool:
    """Whether a new process, which has our ``sys.path``, would import this very file under the name."""
    file = getattr(sys.modules[name], "__file__", None)
    if file is None:
        return False
    folders: Sequence[str] | None = [os.path.abspath(app_dir), *sys.path]
    spec = None
    for end in range(1, name.count(".") + 2):
        if folders is None:
            return False  # what should hold it is no package
        spec = _found(".".join(name.split(".")[:end]), folders)
        if spec is None:
            return False
        folders = spec.submodule_search_locations
    return spec is not None and spec.origin is not None and os.path.realpath(spec.origin) == os.path.realpath(file)


def _found(name: str, folders: Sequence[str]) -> ModuleSpec | None:
    """Where a module would be imported from. It is not."""
    finders: list[Any] = [PathFinder, *sys.meta_path]
    specs = (finder.find_spec(name, folders) for finder in finders if hasattr(finder, "find_spec"))
    return next((spec for spec in specs if spec is not None), None)
