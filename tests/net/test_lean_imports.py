"""What is left out of imports, and that nobody else misses it. Each process here is new: pytest has imported it all."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ifserver.net import lean_imports
from ifserver.net.lean_imports import not_importable, stand_ins

#: Whenever anything is imported, looks for modules that are not the real ones, and cannot be imported.
WATCH = """
import sys
NAMES = ("OpenSSL", "click", "twisted.internet.endpoints", "twisted.internet.ssl", "twisted.application.internet")
seen = set()
def look(event, arguments):
    for name in NAMES if event == "import" else ():
        if name in sys.modules and getattr(sys.modules[name], "__spec__", None) is None:
            seen.add(name)
sys.addaudithook(look)
"""


#: With our reactor.
START = (
    "import json, sys, uvloop, ifserver.cli\nfrom ifserver.net.lean_imports import begin_twisted\nbegin_twisted()\n"
    "from ifserver.process import reactor\nreactor.install(uvloop.new_event_loop())\n"
)


def run(code: str, start: str = START) -> object:
    """What it prints, in one of our own processes."""
    return printed(f"from ifserver.net.lean_imports import be_lean\nbe_lean()\n{start}{code}")


def printed(code: str) -> object:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_servers_and_workers_import_no_tls_of_twisted_s() -> None:
    loaded = run(
        "import ifserver.layers.redis.node, ifserver.front.websocket.connection\nprint(json.dumps([*sys.modules]))"
    )
    assert isinstance(loaded, list)
    left_out = {"OpenSSL", "cryptography", "click", "autobahn.twisted.wamp", "twisted.internet.endpoints"}
    assert {*left_out, "twisted.application", "twisted.internet.ssl"}.isdisjoint(loaded)


def test_commands_import_no_http_client_of_python_s() -> None:
    loaded = run(
        "import types\nsys.modules['ifserver.commands.processes'] = types.SimpleNamespace(run=lambda given: 0)\n"
        "ifserver.cli.main(['run', 'app:app'])\n"
        "import ifserver.services.run, ifserver.services.worker\nprint(json.dumps([*sys.modules]))",
        start="import json, sys, ifserver.cli\n",
    )
    assert isinstance(loaded, list)
    assert {"http.client", "http.cookiejar", "urllib.request", "email.parser"}.isdisjoint(loaded)
    assert {"twisted.python.compat", "twisted.internet.defer"} < {*loaded}


def test_whoever_uses_these_libraries_has_them_whole() -> None:
    found = run(
        "import ifserver.layers.redis.node, ifserver.front.websocket.connection\n"
        "import click, txredisapi\n"
        "from OpenSSL import SSL\n"
        "from twisted.python.compat import cookielib\n"
        "from autobahn.twisted.wamp import Session\n"
        "from twisted.internet import endpoints, ssl\n"
        "from twisted.protocols.tls import TLSMemoryBIOFactory\n"
        "whole = [txredisapi.ssl.ClientContextFactory, txredisapi.HostnameEndpoint, txredisapi.TLSMemoryBIOFactory]\n"
        "same = [ssl.ClientContextFactory, endpoints.HostnameEndpoint, TLSMemoryBIOFactory]\n"
        "print(json.dumps([whole == same, bool(endpoints.serverFromString), bool(SSL.Context), bool(Session.join), "
        "bool(cookielib.CookieJar)]))"
    )
    assert found == [True] * 5


def test_other_programs_whose_threads_may_import_the_same_import_all_of_it() -> None:
    code = WATCH + (
        "import copyreg, json, types\n"
        "from ifserver.groups import link\n"
        "link.current()\n"
        "from twisted.internet import endpoints, tcp\n"
        "import txredisapi\n"
        "whole = hasattr(tcp.Connection, 'startTLS'), 'txredisapi' in sys.modules, bool(endpoints.serverFromString)\n"
        "print(json.dumps([sorted(seen), whole, types.MethodType in copyreg.dispatch_table]))\n"
    )
    code = f"import os\nos.environ['IFSERVER_LAYER_CLUSTERS'] = 'a=redis://127.0.0.1:1'\n{code}"
    assert printed(code) == [[], [True, True, True], False]


def test_what_is_there_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_imports, "_lean", True)
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


def test_whoever_keeps_a_stand_in_finds_the_real_one_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_imports, "_lean", True)
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with stand_ins({"this_is_none": [], "colorsys": []}):
        import colorsys as kept

        import this_is_none as none  # type: ignore[import-not-found]

        assert not hasattr(kept, "rgb_to_hsv")
    assert kept.rgb_to_hsv(0, 0, 0) == (0, 0, 0)
    with pytest.raises(ImportError):
        none.anything  # noqa: B018
