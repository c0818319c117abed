"""The command as a whole: what it says, and that everything wrong is one line before anything is started."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ifserver import __version__, cli

APPLICATIONS = {
    "good": "async def app(scope, receive, send): pass\nnumber = 1\nclass spaces: pass\n",
    "broken": "def app(:\n",
    "raises": "raise RuntimeError('first line\\nsecond line')\n",
    "imports": "import missing_dependency\n",
    "ends": "import sys; sys.exit(5)\n",
    "dies": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n",
    "prints": "print('said while imported')\nraise ValueError('no')\n",
}
SERVE = ("serve", "-p", "0", "--cluster", "a=redis://localhost")
WORKER = ("worker", "good:app", "--cluster", "a=redis://localhost")
RUN = ("run", "good:app", "-p", "0")


#: Runs the command again and again, each time in a process of its own, without paying for its imports again.
SERVER = """
import functools, gc, json, os, sys, traceback
gc.disable()
import ifserver.commands.one_shot, ifserver.commands.processes, ifserver.services.check, ifserver.services.run
import ifserver.config.manual, ifserver.services.multi_server, ifserver.services.worker
from ifserver import cli
from ifserver.config import arguments
arguments.make_parser = functools.cache(arguments.make_parser)
for command in (None, *arguments.COMMANDS):
    arguments.make_parser(False, command)
gc.freeze()
for line in sys.stdin:
    arguments, files = json.loads(line)
    pid = os.fork()
    if not pid:
        for fd, path in enumerate([os.devnull, *files]):
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, fd)
            os.close(opened)
        status = 1
        try:
            status = cli.main(arguments)
        except SystemExit as ended:
            status = ended.code
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Command:
    """The command ``ifserver``, in a folder with some applications."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, source in APPLICATIONS.items():
            (folder / f"{name}.py").write_text(source)
        (folder / "file").touch()
        self._files = [str(folder / name) for name in ("out", "err")]
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run it to its end: exit code, standard output and standard error."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps([arguments, self._files]) + "\n")
        self._server.stdin.flush()
        status = int(self._server.stdout.readline())
        out, err = (Path(file).read_text() for file in self._files)
        return status, out, err

    def not_loaded(self, *arguments: str) -> str:
        """What is said last, of an application that cannot be loaded."""
        status, _, err = self.run(*arguments)
        assert status == 2, err
        assert "Traceback" not in err
        *before, last = err.splitlines()
        # (What is said of a Redis that is not there is no error of the application.)
        assert [line for line in before if " INFO " not in line and " node a: " not in line] == []
        return last

    def refused(self, *arguments: str) -> str:
        """What is said of arguments that are wrong: one line."""
        status, out, err = self.run(*arguments)
        assert status == 2, err
        assert out == ""
        assert err.count("\n") == 1, err
        assert "error: " in err
        return err

    def close(self) -> None:
        """End what runs it."""
        with self._server:
            assert self._server.stdin is not None
            self._server.stdin.close()


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    command = Command(tmp_path_factory.mktemp("apps"))
    yield command
    command.close()


@pytest.fixture
def folder(command: Command) -> Path:
    return command.folder


def ifserver(
    folder: Path, *arguments: str, entry: tuple[str, ...] = ("-m", "ifserver")
) -> subprocess.CompletedProcess[str]:
    """Run the command in `folder` as people do, to its end."""
    line = [sys.executable, *entry, *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=folder, stdin=subprocess.DEVNULL)


# The application.


@pytest.mark.parametrize(
    ("application", "said"),
    [
        ("nothing:app", "No module named 'nothing'"),
        ("good.nothing:app", "No module named 'good.nothing'"),
        ("good:nothing", "good has no attribute 'nothing'"),
        ("good:spaces.nothing", "good.spaces has no attribute 'nothing'"),
        ("good:number", "not callable, but of type int"),
        ("good", "expected MODULE:ATTRIBUTE"),
        ("good:", "expected MODULE:ATTRIBUTE"),
        (":app", "expected MODULE:ATTRIBUTE"),
        ("good.py:app", "No module named 'good.py'"),
        ("../good:app", "expected MODULE:ATTRIBUTE"),
        ("broken:app", "broken.py:1"),
        ("raises:app", "RuntimeError: first line second line"),
        ("imports:app", "No module named 'missing_dependency'"),
        ("ends:app", "SystemExit: 5"),
        ("dies:app", "has ended: SIGKILL"),
    ],
)
def test_an_application_that_cannot_be(command: Command, application: str, said: str) -> None:
    assert said in command.not_loaded("run", application, "-p", "0")


def test_a_worker_looks_at_its_application_too(command: Command) -> None:
    said = command.not_loaded("worker", "good:nothing", "--cluster", "a=redis://localhost")
    assert said.startswith("ifserver: error: application 'good:nothing': good has no attribute 'nothing'")


def test_what_the_application_prints_goes_where_it_always_goes(command: Command) -> None:
    status, out, err = command.run("run", "prints:app", "-p", "0", "--workers", "1")
    assert (status, out) == (2, "said while imported\n")
    assert "said while imported" not in err


def test_the_current_folder_is_importable_and_app_dir_changes_that(command: Command, tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("")
    assert "good has no attribute 'app'" in command.not_loaded(*RUN, "--app-dir", str(tmp_path))
    assert "worker.app_dir: no such folder: 'nowhere'" in command.refused(*RUN, "--app-dir", "nowhere")
    assert "no such folder" in command.refused(*RUN, "--app-dir", "file")


# Numbers, names and addresses.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*RUN, "--workers", "0"), "worker.processes: must be at least 1, got 0"),
        ((*RUN, "--workers", "-1"), "worker.processes: must be at least 1, got -1"),
        ((*RUN, "--workers", "two"), "--workers: worker.processes: expected a whole number, got 'two'"),
        ((*WORKER, "--processes", "0"), "worker.processes: must be at least 1, got 0"),
        ((*RUN, "--concurrency", "0"), "worker.concurrency: must be at least 1, got 0"),
        ((*RUN, "--max-streams", "0"), "worker.max_streams: must be at least 1, got 0"),
        ((*RUN, "--http-timeout", "-1"), "front.response_timeout_s: must be at least"),
        ((*RUN, "--http-timeout", "nan"), "front.response_timeout_s: expected a duration"),
        (
            (*RUN, "-t", "soon"),
            "-t: front.response_timeout_s: expected a duration such as 90s, 2m or 500ms, got 'soon'",
        ),
        ((*SERVE, "--websocket_connect_timeout", "-5"), "front.websocket_connect_timeout_s: must be at least"),
        ((*SERVE, "--ping-interval", "-1"), "front.ping_interval_s: must be at least 0"),
        ((*SERVE, "--ping-timeout", "0"), "front.ping_timeout_s: must be at least"),
        ((*SERVE, "--root-path", "app"), "front.root_path: 'app': must begin with '/'"),
        ((*SERVE, "-s", "a\nb"), "not a header's value"),
        ((*SERVE, "--trusted-proxies", "10.0.0.1/8"), "front.trusted_proxies: '10.0.0.1/8': has host bits set"),
        ((*SERVE, "--access-log", "/nowhere/log"), "front.access_log: '/nowhere/log': No such file or directory"),
        ((*RUN, "-v", "7"), "-v: log.verbosity: must be 0, 1, 2 or 3, got 7"),
        (("run", "good:app", "-p", "65536"), "-p: listen.port: must be at most 65535, got 65536"),
        (("run", "good:app", "-p", "-1"), "-p: listen.port: must be at least 0, got -1"),
        (("run", "good:app", "-p", "http"), "-p: listen.port: expected a whole number, got 'http'"),
        (("run", "good:app", "-p", "0", "-b", "no.such.host.invalid"), "cannot listen on no.such.host.invalid:0: "),
        (("run", "good:app", "-p", "0", "-b", "a" * 70), "cannot listen on "),
        (("run", "good:app", "-p", "0", "-b", "192.0.2.1"), "cannot listen on 192.0.2.1:0: "),
        (("run", "good:app", "-u", "/nowhere/sock"), "cannot listen on the Unix socket /nowhere/sock: No such file"),
        (("run", "good:app", "-u", "file"), "cannot listen on the Unix socket file: there is something else"),
        (("run", "good:app", "-u", "x" * 200), "cannot listen on the Unix socket "),
        (("run", "good:app", "--fd", "99"), "--fd 99: Bad file descriptor"),
        (("run", "good:app", "--fd", "-1"), "--fd -1: "),
        (("run", "good:app", "--fd", "0"), "--fd 0: Socket operation on non-socket"),
        (("run", "good:app", "-e", "nonsense:1"), "--endpoint 'nonsense:1': Unknown endpoint type: 'nonsense'"),
        (("run", "good:app", "-e", ""), "--endpoint ''"),
        (("run", "good:app", "-e", "tcp"), "--endpoint 'tcp'"),
        (("run", "good:app", "-e", "tcp:many"), "--endpoint 'tcp:many'"),
        (("run", "good:app", "-e", "ssl:0:privateKey=nowhere.pem"), "--endpoint 'ssl:0:privateKey=nowhere.pem'"),
        (("run", "good:app", "-e", "unix:/nowhere/sock"), "cannot listen on unix:/nowhere/sock: "),
        (("run",), "an application is missing: give APP"),
        (("serve",), "a cluster is missing: give --cluster"),
        (("worker", "good:app"), "a cluster is missing: give --cluster"),
        ((), "the following arguments are required: COMMAND"),
        (("restart",), "invalid choice: 'restart'"),
        ((*RUN, "--nonsense"), "unrecognized arguments: --nonsense"),
        (("child",), "'child' is what ifserver itself starts"),
        (("child", "x"), "'child' is what ifserver itself starts"),
    ],
)
def test_a_value_that_cannot_be(command: Command, arguments: tuple[str, ...], said: str) -> None:
    assert said in command.refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cluster", "redis://localhost"), "expected NAME=URL"),
        (("--cluster", "a"), "expected NAME=URL"),
        (("--cluster", "=redis://localhost"), "--cluster: "),
        (("--cluster", "a.b=redis://localhost"), "--cluster: "),
        (("--cluster", "a b=redis://localhost"), "--cluster: "),
        (("--cluster", "a="), "unknown scheme ''"),
        (("--cluster", "a=redis://localhost,"), "--cluster a: 'redis://localhost,': only a Sentinel URL"),
        (("--cluster", "a=localhost:6379"), "unknown scheme"),
        (("--cluster", "a=http://localhost"), "unknown scheme 'http', there are: redis, rediss, "),
        (("--cluster", "a=redis://"), "a host is missing"),
        (("--cluster", "a=redis://localhost:port"), "not a URL"),
        (("--cluster", "a=redis://localhost:99999"), "not a URL"),
        (("--cluster", "a=redis://localhost/one"), "a database is a number"),
        (("--cluster", "a=redis+unix://"), "expected redis+unix:///PATH"),
        (("--cluster", "a=redis://a", "--cluster", "a=redis://b"), "layer.clusters: cluster 'a' is given twice"),
        (("--cluster", "a=redis://a,redis://b", "--cluster", "a-1=redis://c"), "two nodes are named 'a-1'"),
        (("--cluster", "a=redis://a", "--home", "b"), "layer.home: no cluster is named 'b', there are: a"),
    ],
)
@pytest.mark.parametrize("start", [("serve", "-p", "0"), ("worker", "good:app")], ids=["serve", "worker"])
def test_a_cluster_that_cannot_be(
    command: Command, start: tuple[str, ...], arguments: tuple[str, ...], said: str
) -> None:
    assert said in command.refused(*start, *arguments)


def test_python_m_and_everything_that_is_imported_keep_to_one_line(folder: Path) -> None:
    done = ifserver(folder, "serve", "--cluster", "a=http://localhost")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("ifserver: error: --cluster a: 'http://localhost': unknown scheme 'http'")


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:geheim@localhost:port",
        "redis://:geheim@localhost/one",
        "http://:geheim@localhost",
        "redis://user:geheim/x@localhost",
        "redis://user:geheim#x@localhost",
    ],
)
def test_a_password_is_never_told(command: Command, url: str) -> None:
    assert "geheim" not in command.refused("serve", "-p", "0", "--cluster", f"a={url}")
    assert "geheim" not in command.refused("serve", "-p", "0", "--cluster", url)


def test_a_descriptor_that_is_connected(folder: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = ours.fileno()
        line = [sys.executable, "-m", "ifserver", "run", "good:app", "--fd", str(fd)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=folder, pass_fds=[fd])
    assert done.returncode == 2
    assert done.stderr == f"ifserver: error: --fd {fd}: connected already, so that it cannot be listened on\n"


# What is not an error.


@pytest.mark.parametrize(
    "entry", [("-m", "ifserver"), ("-c", "import sys; from ifserver.cli import main; sys.exit(main())")]
)
def test_version(folder: Path, entry: tuple[str, ...]) -> None:
    done = ifserver(folder, "--version", entry=entry)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ifserver {__version__}\n", "")


def test_it_is_installed_as_a_command(folder: Path) -> None:
    line = [str(Path(sys.executable).parent / "ifserver"), "--version"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=folder)
    assert (done.returncode, done.stdout) == (0, f"ifserver {__version__}\n")


@pytest.mark.parametrize("of", [(), ("run",), ("serve",), ("worker",), ("settings",)])
def test_help(capsys: pytest.CaptureFixture[str], of: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*of, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr()
    assert said.out.startswith("usage: ifserver")
    assert said.err == ""


@pytest.mark.parametrize("flag", ["--help", "--help-all"])
@pytest.mark.parametrize("command", ["run", "serve", "worker", "settings"])
def test_help_fits_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flag: str, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        cli.main([command, flag])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


@pytest.mark.parametrize("words", [("--help",), ("run", "--help"), ("--version",), ("settings",), ("run", "--no-such")])
def test_what_only_prints_is_quick(folder: Path, words: tuple[str, ...]) -> None:
    """It imports no Twisted and no asyncio, which take longer than all the rest."""
    done = ifserver(folder, *words, entry=("-X", "importtime", "-m", "ifserver"))
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert imported & {"twisted", "asyncio", "uvloop", "ssl", "subprocess", "rich"} == set()


def test_help_shows_what_is_common_and_help_all_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            cli.main(["run", flag])
        said.append(capsys.readouterr().out)
    common, whole = said
    for name in ("--port", "--workers", "--http-timeout", "--proxy-headers", "--reload", "--no-server-name"):
        assert name in common
        assert name in whole
    for name in ("--max-pipelined", "--log-format", "--stall-timeout"):
        assert name not in common
        assert name in whole
    assert "PORT is" in " ".join(common.split())


# Settings.


@pytest.fixture
def settings(folder: Path) -> Iterator[Path]:
    """A file with settings."""
    file = folder / "ifserver.toml"
    yield file
    file.unlink()


def test_the_settings_that_hold(command: Command, settings: Path) -> None:
    settings.write_text('[clusters]\neast = "redis://me:geheim@localhost"\n[front]\nmax_headers = 7\n')
    status, out, err = command.run("settings", "--max-pipelined", "3")
    assert (status, err) == (0, "")
    assert "file: ifserver.toml\n" in out
    assert "front.max_headers 7 ifserver.toml:4\n" in re.sub(" +", " ", out)
    assert "front.max_pipelined 3 --max-pipelined\n" in re.sub(" +", " ", out)
    assert "geheim" not in out
    status, out, err = command.run("settings", "--json")
    assert json.loads(out)["front.max_headers"] == {"value": 7, "from": "ifserver.toml:4"}


def test_an_example_of_a_file_is_one(command: Command, settings: Path) -> None:
    _, example, _ = command.run("settings", "--example")
    settings.write_text(example)
    status, out, err = command.run("settings")
    assert (status, err) == (0, "")
    assert "ifserver.toml:" not in out


@pytest.mark.parametrize("arguments", [RUN, SERVE, WORKER, ("settings",)])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[front]\nmax_body_bytes = -1", "ifserver.toml:2: front.max_body_bytes: must be at least 0, got -1"),
        ("[front]\nmax_body = 1", "ifserver.toml:2: front.max_body: unknown; did you mean front.max_body_bytes?"),
        ("[front", "ifserver.toml:1: Expected ']'"),
    ],
)
def test_a_file_that_cannot_be(
    command: Command, settings: Path, arguments: tuple[str, ...], text: str, said: str
) -> None:
    """Whichever command it is, and whether or not that uses the section."""
    settings.write_text(text)
    assert command.refused(*arguments).startswith(f"ifserver: error: {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[listen]\nendpoints = 'x:1'", "ifserver.toml:2: listen.endpoints 'x:1': Unknown endpoint type: 'x'"),
        ("[listen]\nfd = 99", "ifserver.toml:2: listen.fd 99: Bad file descriptor"),
        (
            "[listen]\nport = 0\n[front]\naccess_log = '/nowhere/log'",
            "ifserver.toml:4: front.access_log: '/nowhere/log': No such file or directory",
        ),
    ],
)
def test_what_is_tried_later_names_the_file_too(command: Command, settings: Path, text: str, said: str) -> None:
    settings.write_text(text)
    assert command.refused("run", "good:app") == f"ifserver: error: {said}\n"


def test_the_application_of_the_file(command: Command, settings: Path) -> None:
    settings.write_text('[worker]\napplication = "good:nothing"')
    assert "good has no attribute 'nothing'" in command.not_loaded("run", "-p", "0")


def test_the_password_of_a_file_is_not_told(command: Command, settings: Path) -> None:
    settings.write_text('[clusters]\neast = ["redis://localhost", "redis://:geheim@localhost:port"]')
    for arguments in (("serve",), ("settings",)):
        said = command.refused(*arguments)
        assert said.startswith("ifserver: error: ifserver.toml:2: clusters: east-2: ")
        assert "geheim" not in said


def test_a_file_that_was_found_is_named_in_the_log(command: Command, settings: Path) -> None:
    settings.write_text('[worker]\napplication = "good:app"\n[listen]\nendpoints = "unix:/nowhere/sock"')
    status, _, err = command.run("run")
    assert (status, f"settings from {settings}\n" in err) == (2, True)


def test_ctrl_c_while_the_application_is_imported(folder: Path) -> None:
    (folder / "slow.py").write_text("print('importing', flush=True)\nimport time\nwhile True: time.sleep(1)\n")
    line = [sys.executable, "-m", "ifserver", "run", "slow:app", "-p", "0", "-w", "1"]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert [line for line in err.splitlines() if " INFO " not in line] == []
