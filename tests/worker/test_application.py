"""Finding the application. `check` is called in a process of its own: it forks, and here there are threads."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ifserver.config.settings import WorkerSettings
from ifserver.errors import ConfigurationError
from ifserver.messages import ResponseStart
from ifserver.worker.application import LoadErrorPage, load, load_for
from ifserver.worker.lifespan import StartupFailed
from tests.process.test_children import run
from tests.worker.stage import Play, http_request, websocket_connect

#: Module -> its text.
MODULES = {
    "good_site/__init__.py": "",
    "good_site/asgi.py": (
        "async def application(scope, receive, send): pass\nclass box:\n    app = application\nvalue = 5\n"
    ),
    "raises_site.py": "x = 1\n\nraise ValueError('first line\\nsecond line')\n",
    "raises_deep_site.py": "import raises_site\n",
    "silent_site.py": "raise ValueError\n",
    "long_site.py": "raise ValueError('x' * 5000)\n",
    "syntax_site.py": "x = 1\ndef broken(:\n",
    "misses_site.py": "import time\nimport a_module_that_is_not_installed\n",
    "site-packages/library_site.py": "import json\ndef parse(text): return json.loads(text)\n",
    "parses_site.py": "import library_site\nx = 1\nlibrary_site.parse('(')\n",
    "exits_site.py": "import sys\nsys.exit('bye')\n",
    "interrupts_site.py": "raise KeyboardInterrupt\n",
    "vanishes_site.py": "import os\nos._exit(3)\n",
    "killed_site.py": "import os\nos.kill(os.getpid(), 9)\n",
    "factory_site.py": (
        "import functools, os\n"
        "async def application(scope, receive, send): pass\n"
        "def wsgi(environ, start_response): pass\n"
        "def make(): return application\n"
        "def make_wsgi(config=None, debug=False): return wsgi\n"
        "def make_any(*args): return application\n"
        "cached = functools.lru_cache(make)\n"
        "class Made:\n"
        "    async def __call__(self, scope, receive, send): pass\n"
        "class Asgi2:\n"
        "    def __init__(self, scope): pass\n"
        "    async def __call__(self, receive, send): pass\n"
        "async def make_async(): return application\n"
        "def make_nothing(): pass\n"
        "def make_factory(): return make\n"
        "def make_fail():\n    raise RuntimeError('no database')\n"
        "def five(a, b, c, d, e): pass\n"
        "def variables(): return lambda scope, receive, send: (os.environ.get('NEW'), os.environ.get('OLD'))\n"
        "def decorated(function):\n"
        "    @functools.wraps(function)\n"
        "    def wrapper(scope, receive, send): return function()\n"
        "    return wrapper\n"
        "@decorated\n"
        "def wrapped(): pass\n"
    ),
    "prints_site.py": "print('importing', end='')\nasync def application(scope, receive, send): pass\n",
    "leaves_site.py": (
        "import os\nif not os.fork():\n    os.read(int(os.environ['UNTIL']), 1)\n    os._exit(0)\n"
        "async def application(scope, receive, send): pass\n"
    ),
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with `MODULES`, of which none is imported before or behind the test."""
    for name, text in MODULES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if "_site" in name:
            del sys.modules[name]


def problem(application: str, folder: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        load(application, str(folder))
    text = str(error.value)
    assert "\n" not in text
    return text


def test_an_application_that_is_there(site: Path) -> None:
    application = load("good_site.asgi:application", str(site))
    assert application.__module__ == "good_site.asgi"
    assert load("good_site.asgi:box.app", str(site)) is application


def test_its_folder_is_first_once(site: Path) -> None:
    load("good_site.asgi:application", str(site))
    load("good_site.asgi:application", str(site))
    assert sys.path[0] == str(site)
    assert sys.path.count(str(site)) == 1


def test_a_relative_folder_is_told_and_entered_as_an_absolute_one(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    load("good_site.asgi:application", ".")
    assert sys.path[0] == str(site)


@pytest.mark.parametrize("application", ["good_site.asgi", "good_site.asgi:", ":application", "good site:a", "a:b:c"])
def test_what_is_of_another_form(application: str, site: Path) -> None:
    assert "expected MODULE:ATTRIBUTE" in problem(application, site)


def test_a_folder_that_is_none(site: Path) -> None:
    missing = site / "missing"
    assert problem("good_site.asgi:application", missing) == f"worker.app_dir: no such folder: {missing}"
    assert str(missing) not in sys.path


@pytest.mark.parametrize("module", ["missing_site", "good_site.missing", "missing_site.asgi"])
def test_a_module_that_is_not_there(module: str, site: Path) -> None:
    missing = "missing_site" if module.startswith("missing") else module
    assert problem(f"{module}:application", site) == (
        f"application '{module}:application': No module named '{missing}' (looked in {site} first)"
    )


def test_a_module_that_imports_what_is_not_there_is_told_by_its_line(site: Path) -> None:
    assert problem("misses_site:application", site) == (
        "application 'misses_site:application': ModuleNotFoundError: No module named "
        f"'a_module_that_is_not_installed' ({site}/misses_site.py:2)"
    )


@pytest.mark.parametrize(
    ("application", "owner", "attribute"),
    [
        ("good_site.asgi:app", "good_site.asgi", "app"),
        ("good_site.asgi:box.no.app", "good_site.asgi.box", "no"),
        ("good_site.asgi:application.app", "good_site.asgi.application", "app"),
    ],
)
def test_an_attribute_that_is_not_there(application: str, owner: str, attribute: str, site: Path) -> None:
    assert problem(application, site) == f"application '{application}': {owner} has no attribute '{attribute}'"


def test_an_attribute_that_cannot_be_called(site: Path) -> None:
    assert problem("good_site.asgi:value", site).endswith("not callable, but of type int")


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("raises_site", "ValueError: first line second line ({}/raises_site.py:3)"),
        ("raises_deep_site", "ValueError: first line second line ({}/raises_site.py:3)"),
        ("silent_site", "ValueError ({}/silent_site.py:1)"),
        ("exits_site", "SystemExit: bye ({}/exits_site.py:2)"),
    ],
)
def test_an_import_that_fails_is_told_by_file_and_line(module: str, expected: str, site: Path) -> None:
    assert problem(f"{module}:a", site) == f"application '{module}:a': {expected.format(site)}"


def test_the_place_is_in_the_user_s_own_code_where_a_library_raises(site: Path) -> None:
    sys.path.append(str(site / "site-packages"))
    assert problem("parses_site:a", site).endswith(f" ({site}/parses_site.py:3)")
    (site / "site-packages" / "inner_site.py").write_text("from library_site import parse\nparse('(')\n")
    assert "json/decoder.py:" in problem("inner_site:a", site), "there is none of the user's own"


def test_a_syntax_error_is_told_by_its_own_line(site: Path) -> None:
    text = problem("syntax_site:a", site)
    assert "SyntaxError: " in text
    assert text.endswith(f"({site}/syntax_site.py:2)")


def test_a_very_long_text_is_cut(site: Path) -> None:
    text = problem("long_site:a", site)
    assert "x" * 300 in text
    assert len(text) < 700


def test_what_the_import_raised_is_kept_for_the_traceback(site: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        load("raises_site:a", str(site))
    assert isinstance(error.value.__cause__, ValueError)


@pytest.mark.parametrize(
    ("application", "why"),
    [
        ("raises_site:a", "ValueError: first line second line ({site}/raises_site.py:3)"),
        ("exits_site:a", "SystemExit: bye ({site}/exits_site.py:2)"),
        ("interrupts_site:a", "KeyboardInterrupt ({site}/interrupts_site.py:1)"),
    ],
)
def test_whatever_ends_the_import_is_told_in_one_line(site: Path, application: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load(application, str(site))
    assert str(error.value) == f"application {application!r}: {why.format(site=site)}"


# Factories.


@pytest.mark.parametrize("factory", [False, True])
@pytest.mark.parametrize(("name", "made"), [("make", "application"), ("cached", "application"), ("make_wsgi", "wsgi")])
def test_a_factory_is_called(site: Path, name: str, made: str, factory: bool) -> None:
    application: object = load(f"factory_site:{name}", str(site), factory=factory)
    assert application is getattr(sys.modules["factory_site"], made)


def test_a_class_without_arguments_is_one_too(site: Path) -> None:
    assert type(load("factory_site:Made", str(site))) is sys.modules["factory_site"].Made


def test_one_that_takes_anything_is_one_only_if_that_is_said(site: Path) -> None:
    application: object = load("factory_site:make_any", str(site))
    assert application is sys.modules["factory_site"].make_any
    for name, factory in (("make_any", True), ("make_any()", False)):
        application = load(f"factory_site:{name}", str(site), factory=factory)
        assert application is sys.modules["factory_site"].application


@pytest.mark.parametrize(
    ("name", "interface", "said"),
    [
        ("make_async", "auto", "a factory cannot be an async function"),
        ("make_nothing", "auto", "called as a factory, it has returned no application, but an object of type NoneType"),
        ("make_factory", "auto", "called as a factory, it has returned no application, but an object of type function"),
        ("make_fail", "auto", "RuntimeError: no database ({site}/factory_site.py:17)"),
        ("make", "wsgi", "called as a factory, it has returned no application, but an object of type function"),
        (
            "Asgi2",
            "auto",
            "it takes one argument: applications of ASGI 2 need asgiref.compatibility.guarantee_single_callable",
        ),
        ("wsgi", "asgi", "its parameters are not those of ASGI, which worker.interface asks for"),
        ("application", "wsgi", "its parameters are not those of WSGI, which worker.interface asks for"),
        (
            "five",
            "auto",
            "its parameters are those of no ASGI application (scope, receive, send), no WSGI application (environ, "
            "start_response), and no factory (none)",
        ),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_is_neither(site: Path, name: str, interface: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load(f"factory_site:{name}", str(site), interface)
    assert str(error.value) == f"application 'factory_site:{name}': {said.format(site=site)}"


def test_who_says_factory_of_an_application(site: Path) -> None:
    with pytest.raises(ConfigurationError, match="needs arguments, so it is no factory; without --factory it is the"):
        load("factory_site:application", str(site), factory=True)
    with pytest.raises(ConfigurationError, match=r"needs arguments, so it is no factory; without \(\) it is the"):
        load("factory_site:application()", str(site))


def test_what_a_decorator_takes_counts_as_well(site: Path) -> None:
    """``functools.wraps`` shows the parameters of what is decorated."""
    application = load("factory_site:wrapped", str(site), "asgi")
    assert application is sys.modules["factory_site"].wrapped


# Variables.


def test_variables_of_a_file_are_there_before_the_import(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEW", "")
    monkeypatch.delenv("NEW")
    monkeypatch.setenv("OLD", "kept")
    file = site / ".env"
    file.write_text("\ufeffNEW=from the file\r\nOLD=not taken\r\n", encoding="utf-8")
    settings = WorkerSettings(application="factory_site:variables", app_dir=str(site), env_file=str(file))
    application: Any = load_for(settings)
    assert application(None, None, None) == ("from the file", "kept")


def test_a_file_of_variables_that_cannot_be_read(site: Path) -> None:
    def problem_of(file: Path) -> str:
        with pytest.raises(ConfigurationError) as error:
            load_for(WorkerSettings(application="factory_site:make", app_dir=str(site), env_file=str(file)))
        return str(error.value)

    missing, latin, bad = site / "missing", site / "latin", site / "bad"
    latin.write_bytes(b"A=\xe4")
    bad.write_text("A=1\nB\n")
    assert problem_of(missing) == f"worker.env_file: '{missing}': No such file or directory"
    assert problem_of(latin) == f"worker.env_file: '{latin}': not UTF-8"
    assert problem_of(bad) == f"{bad}:2: expected NAME=VALUE"


def answer(broken: LoadErrorPage, request: Any) -> ResponseStart:
    """The whole answer to a request."""
    answers: list[ResponseStart] = []

    async def main() -> None:
        play = await Play.begin(request, broken)
        answers.extend(play.host.sent)

    run(main)
    [start] = answers
    assert start.status == 500
    assert not start.more_body
    assert (b"cache-control", b"no-store") in start.headers
    return start


def text_of(broken: LoadErrorPage, *accept: bytes) -> tuple[str, str]:
    """Content type and body of the answer to a client that accepts this."""
    start = answer(broken, http_request(headers=[(b"accept", each) for each in accept]))
    [kind] = [value for name, value in start.headers if name == b"content-type"]
    return kind.decode(), start.body.decode()


def loaded(application: str, folder: Path) -> LoadErrorPage:
    with pytest.raises(ConfigurationError) as caught:
        load(application, str(folder))
    return LoadErrorPage.not_loaded(caught.value)


def test_a_browser_gets_a_page_and_whatever_else_plain_text() -> None:
    broken = LoadErrorPage("It failed", "</pre><script>alert('x')</script> & more")
    kind, page = text_of(broken, b"application/xml", b"text/html, */*;q=0.8")
    assert kind == "text/html; charset=utf-8"
    assert page.startswith("<!DOCTYPE html>")
    assert "<h1>It failed</h1>" in page
    assert "<script" not in page
    assert "&lt;/pre&gt;&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; more" in page
    for accept in ([], [b"*/*"], [b"application/json"]):
        kind, text = text_of(broken, *accept)
        assert kind == "text/plain; charset=utf-8"
        assert text.startswith("It failed\n\n</pre><script>alert('x')</script> & more\n")


def test_a_new_websocket_is_denied_with_the_error() -> None:
    start = answer(LoadErrorPage("It failed", "because"), websocket_connect())
    assert b"because" in start.body


def test_the_traceback_begins_where_the_application_does(site: Path) -> None:
    text = loaded("raises_deep_site:application", site).text
    first, _, traceback = text.partition("\n\n")
    assert first == (
        f"application 'raises_deep_site:application': ValueError: first line second line ({site}/raises_site.py:3)"
    )
    assert traceback.splitlines() == [
        "Traceback (most recent call last):",
        f'  File "{site}/raises_deep_site.py", line 1, in <module>',
        "    import raises_site",
        f'  File "{site}/raises_site.py", line 3, in <module>',
        "    raise ValueError('first line\\nsecond line')",
        "ValueError: first line",
        "second line",
    ]


def test_a_syntax_error_is_shown_with_its_line(site: Path) -> None:
    text = loaded("syntax_site:application", site).text
    assert f'  File "{site}/syntax_site.py", line 2\n    def broken(:' in text
    assert "importlib" not in text


@pytest.mark.parametrize(
    ("application", "said"),
    [
        ("nowhere_site:application", "ModuleNotFoundError: No module named 'nowhere_site'"),
        ("good_site.asgi:nothing", "has no attribute 'nothing'"),
        ("good_site.asgi:value", "not callable, but of type int"),
    ],
)
def test_what_is_wrong_with_the_name_of_the_application(application: str, said: str, site: Path) -> None:
    text = loaded(application, site).text
    assert said in text
    assert "Traceback" not in text


def test_a_startup_that_failed() -> None:
    broken = LoadErrorPage.not_started(
        StartupFailed("Traceback (most recent call last):\n  ...\nOSError: no database\n")
    )
    assert str(broken).startswith("The application's startup failed:\nTraceback")
    assert str(broken).endswith("OSError: no database")
    assert str(LoadErrorPage.not_started(StartupFailed("why"))) == "The application's startup failed: why"
    _, text = text_of(broken)
    assert "startup failed" in text
    assert "OSError: no database" in text


def test_of_a_long_error_the_end_is_shown_and_any_text_can_be() -> None:
    _, text = text_of(LoadErrorPage("It failed", "first" + "x" * 100_000 + "last \udcff"))
    assert len(text) < 20_000
    assert "first" not in text
    assert "last \\udcff" in text
