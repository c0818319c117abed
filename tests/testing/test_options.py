from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ifserver.testing.options import name_of, variables, without_settings
from tests.testing import apps


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"queue_timeout": 1}, {"IFSERVER_FRONT_QUEUE_TIMEOUT_S": "1"}),
        ({"queue_timeout_s": 1}, {"IFSERVER_FRONT_QUEUE_TIMEOUT_S": "1"}),
        ({"front_queue_timeout_s": 0.5}, {"IFSERVER_FRONT_QUEUE_TIMEOUT_S": "0.5"}),
        ({"workers": 2}, {"IFSERVER_WORKER_PROCESSES": "2"}),
        ({"processes": 2}, {"IFSERVER_WORKER_PROCESSES": "2"}),
        ({"worker_drain_timeout": 1}, {"IFSERVER_WORKER_DRAIN_TIMEOUT_S": "1"}),
        ({"resumable": ["/a", "/b"]}, {"IFSERVER_FRONT_RESUMABLE_PATHS": "/a,/b"}),
        ({"resumable_paths": ()}, {"IFSERVER_FRONT_RESUMABLE_PATHS": "none"}),
        ({"endpoints": ["tcp:1", "tcp:2"]}, {"IFSERVER_LISTEN_ENDPOINTS": "tcp:1 tcp:2"}),
        ({"server_header": None}, {"IFSERVER_FRONT_SERVER_HEADER": "none"}),
        ({"websocket_compression": False}, {"IFSERVER_FRONT_WEBSOCKET_COMPRESSION": "false"}),
        ({"prefix": "a:"}, {"IFSERVER_LAYER_PREFIX": "a:"}),
        ({"admin_token": "x" * 40}, {"IFSERVER_FRONT_ADMIN_TOKEN": "x" * 40}),
        ({"verbosity": 2}, {"IFSERVER_LOG_VERBOSITY": "2"}),
        (
            {"drain_timeout": 1},
            {"IFSERVER_FRONT_DRAIN_TIMEOUT_S": "1", "IFSERVER_WORKER_DRAIN_TIMEOUT_S": "1"},
        ),
    ],
)
def test_settings_are_keywords(given: dict[str, Any], expected: dict[str, str]) -> None:
    assert variables(given) == expected


@pytest.mark.parametrize(
    ("keyword", "complaint"),
    [
        ("queue_timout", "no setting is called 'queue_timout': did you mean queue_timeout"),
        ("nothing_like_it", "no setting is called 'nothing_like_it'"),
        ("application", "application: the application is the first argument"),
        ("clusters", "clusters: give redis=URL"),
        ("fd", "fd: give host= and port="),
    ],
)
def test_what_is_no_setting_is_refused(keyword: str, complaint: str) -> None:
    with pytest.raises(TypeError) as caught:
        variables({keyword: "value"})
    assert complaint in str(caught.value)


def test_the_settings_of_this_machine_are_left_out(tmp_path: Path) -> None:
    environ = {
        "IFSERVER_FRONT_ADMIN": "x",
        "IFSERVER_CONFIG": "x",
        "PORT": "1",
        "IFSERVER_REDIS_PASSWORD": "x",
        "A": "b",
    }
    kept = {"IFSERVER_REDIS_PASSWORD": "x", "A": "b"}
    assert without_settings(environ, str(tmp_path)) == kept
    (tmp_path / "ifserver.toml").touch()
    assert without_settings(environ, str(tmp_path)) == kept | {"IFSERVER_CONFIG": "/dev/null"}


def test_a_name_is_a_name() -> None:
    assert name_of("mysite.asgi:application") == "mysite.asgi:application"


def test_functions_and_objects_are_found_by_name() -> None:
    assert name_of(apps.asgi) == "tests.testing.apps:asgi"
    assert name_of(apps.made) == "tests.testing.apps:made"
    assert name_of(method) == f"{__name__}:method"


method = apps.made.__call__


def test_what_a_test_has_imported_is_found_where_it_was_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "imported", apps.made, raising=False)
    assert name_of(apps.made) == "tests.testing.apps:made"


def test_what_is_local_has_no_name() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError

    for local in (application, lambda environ, start_response: [], apps.Made()):
        with pytest.raises(TypeError, match=r"workers could import .* no module has it .* environment=\{"):
            name_of(local)


def test_what_is_no_application_is_refused() -> None:
    with pytest.raises(TypeError, match=r"something that can be called, or 'module:attribute'; got 3"):
        name_of(3)


def test_a_module_that_others_would_not_find_is_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.py").touch()
    module = ModuleType("elsewhere")
    module.__file__ = str(tmp_path / "elsewhere.py")
    monkeypatch.setitem(sys.modules, "elsewhere", module)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError

    module.application = application  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="a new process does not find the module 'elsewhere' by that name"):
        name_of(application)
    assert name_of(application, str(tmp_path)) == "elsewhere:application"
    monkeypatch.syspath_prepend(tmp_path)
    assert name_of(application) == "elsewhere:application"
