"""What is left out of imports, and that nobody else misses it. Each process here is new: pytest has imported it all."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ifserver.net.lean_imports import not_importable, stand_ins


def run(code: str) -> object:
    """What it prints, in a process of its own with our reactor."""
    start = (
        "import json, sys, uvloop, ifserver.cli\n"
        "from ifserver.process import reactor\nreactor.install(uvloop.new_event_loop())\n"
    )
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_servers_and_workers_import_no_tls_of_twisted_s() -> None:
    loaded = run(
        "import ifserver.layers.redis.endpoints, ifserver.front.websocket.connection\nprint(json.dumps([*sys.modules]))"
    )
    assert isinstance(loaded, list)
    left_out = {"OpenSSL", "cryptography", "click", "autobahn.twisted.wamp", "twisted.internet.endpoints"}
    assert {*left_out, "twisted.application", "twisted.internet.ssl"}.isdisjoint(loaded)


def test_whoever_uses_these_libraries_has_them_whole() -> None:
    found = run(
        "import ifserver.layers.redis.endpoints, ifserver.front.websocket.connection\n"
        "import click, txredisapi\n"
        "from OpenSSL import SSL\n"
        "from autobahn.twisted.wamp import Session\n"
        "from twisted.internet import endpoints, ssl\n"
        "from twisted.protocols.tls import TLSMemoryBIOFactory\n"
        "whole = [txredisapi.ssl.ClientContextFactory, txredisapi.HostnameEndpoint, txredisapi.TLSMemoryBIOFactory]\n"
        "same = [ssl.ClientContextFactory, endpoints.HostnameEndpoint, TLSMemoryBIOFactory]\n"
        "print(json.dumps([whole == same, bool(endpoints.serverFromString), bool(SSL.Context), bool(Session.join)]))"
    )
    assert found == [True] * 4


def test_what_is_there_already_stays() -> None:
    with not_importable("json"), stand_ins({"subprocess": ["run"]}):
        import json as imported
        import subprocess as ran
    assert (imported, ran) == (json, subprocess)
    with not_importable("antigravity"), pytest.raises(ImportError):
        import antigravity  # noqa: F401
    with stand_ins({"antigravity": ["up"]}):
        from antigravity import up  # type: ignore[attr-defined]
    assert up is object
    assert "antigravity" not in sys.modules
