"""Settings without a command line: a Django project's, a file's and the environment's."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ifserver.config import sources
from ifserver.config.configuration import Given
from ifserver.errors import ConfigurationError


def test_what_a_django_project_says() -> None:
    tables = {
        "front": {"allowed_origins": ("https://a",), "server_header": None, "max_body_bytes": "1MiB"},
        "worker": {"env_file": Path("/x"), "drain_timeout_s": timedelta(minutes=1)},
        "clusters": {"east": ["redis://a"]},
    }
    assert sources.from_django(tables) == {
        "front.allowed_origins": Given(("https://a",), 'IFSERVER["front"]["allowed_origins"]'),
        "front.server_header": Given(None, 'IFSERVER["front"]["server_header"]'),
        "front.max_body_bytes": Given(2**20, 'IFSERVER["front"]["max_body_bytes"]'),
        "worker.env_file": Given("/x", 'IFSERVER["worker"]["env_file"]'),
        "worker.drain_timeout_s": Given(60.0, 'IFSERVER["worker"]["drain_timeout_s"]'),
        "layer.clusters": Given((Given("east=redis://a", 'IFSERVER["clusters"]["east"]'),), 'IFSERVER["clusters"]'),
    }


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"front": {"xyz": 1}}, 'IFSERVER["front"]["xyz"]: front.xyz: unknown'),
        ({"fornt": {}}, 'IFSERVER["fornt"]: fornt: unknown; did you mean front?'),
        ({"front": 1}, 'IFSERVER["front"]: front: expected a dict'),
        (
            {"front": {"max_headers": 0}},
            'IFSERVER["front"]["max_headers"]: front.max_headers: must be at least 1, got 0',
        ),
        ({"front": {"max_headers": object}}, 'IFSERVER["front"]["max_headers"]: front.max_headers: expected a'),
        ([], "IFSERVER: expected a dict of sections, got list"),
    ],
)
def test_what_it_cannot_say(tables: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        sources.from_django(tables)
    assert str(caught.value).startswith(said)


def test_file_and_environment_win_against_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ifserver.toml").write_text("[front]\nmax_headers = 2\nmax_pipelined = 2\n")
    project = {"front": {"max_headers": 1, "max_pipelined": 1, "retry_after_s": 1}, "worker": {"application": "a:b"}}
    environ = {
        sources.PROJECT_VARIABLE: sources.encode_project(project, {"worker": {"application": "c:d", "app_dir": "e"}}),
        "IFSERVER_FRONT_MAX_PIPELINED": "3",
    }
    configuration = sources.configuration(environ)
    values = [configuration.of(f"front.{name}").value for name in ("max_headers", "max_pipelined", "retry_after_s")]
    assert values == [2, 3, 1]
    assert configuration.of("worker.application").value == "a:b"
    assert configuration.of("worker.app_dir") == Given("e", "manage.py")
