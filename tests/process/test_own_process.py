"""Ctrl-C while the command starts, or becomes another; and what becomes of the memory that a process frees."""

from __future__ import annotations

import itertools
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from ifserver.process import own_process
from tests.e2e.running import APPS, EXAMPLES, LIMIT_S

#: Sends SIGINT to itself when it imports the module that is named, or replaces itself by another program. Behind
#: ``ignored-`` and a name: in a callback, whose exceptions Python ignores; behind ``wrapped-``: while it makes a class.
INTERRUPTED = """
import os, signal, sys, weakref
how, _, name = sys.argv.pop(1).rpartition("-")
class Name:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), signal.SIGINT)
def hook(event, arguments):
    if (event == "import" and arguments[0] == name) or event == name == "os.exec":
        print("interrupted", flush=True)
        if how == "ignored":
            one = Name()
            callback = weakref.ref(one, lambda one: os.kill(os.getpid(), signal.SIGINT))
            del one
        elif how == "wrapped":
            class Class:
                one = Name()
        else:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.addaudithook(hook)
"""
IFSERVER = "from ifserver.__main__ import main; sys.exit(main())"
MANAGE = "import runpy; sys.argv[0] = 'manage.py'; runpy.run_path('manage.py', run_name='__main__')"


def interrupted(when: str, *words: str, cwd: Path, by: str = IFSERVER) -> subprocess.CompletedProcess[str]:
    """The command, interrupted when it imports the module `when`, or at ``os.exec``."""
    command = [sys.executable, "-c", INTERRUPTED + by, when, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=cwd)


@pytest.mark.parametrize(
    "module", ["ifserver.net.lean_imports", "msgspec", "ifserver.cli", "uvloop", "ifserver.services.run"]
)
def test_it_ends_quietly_and_with_success(module: str, tmp_path: Path) -> None:
    done = interrupted(
        module, "run", "zoo:app", "--bind", f"unix:{tmp_path}/socket", "--app-dir", str(APPS), cwd=tmp_path
    )
    assert (done.returncode, "interrupted" in done.stdout) == (0, True)
    assert "Traceback" not in done.stderr
    assert "is ready" not in done.stderr
    assert not (tmp_path / "socket").exists()


def test_a_command_that_is_no_service_ends_too(tmp_path: Path) -> None:
    for module, words in (("msgspec", ["settings"]), ("ifserver.config.arguments", ["settings"])):
        done = interrupted(module, *words, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


@pytest.mark.parametrize("words", [("runserver", "0"), ("runserver", "0", "--noreload"), ("ifserver", "-p", "0")])
@pytest.mark.parametrize(
    "when",
    [
        "django.contrib.auth.base_user",
        "django.contrib.admin.options",
        "ignored-ifserver.django.checks",
        "wrapped-ifserver.django.checks",
        "ifserver.django.launch",
        "os.exec",
    ],
)
def test_manage_py_ends_quietly_once_django_has_begun_to_import_the_apps(when: str, words: tuple[str, ...]) -> None:
    done = interrupted(when, *words, cwd=EXAMPLES / "django_site", by=MANAGE)
    assert (done.returncode, "interrupted" in done.stdout, "Traceback" in done.stderr) == (0, True, False)


@pytest.mark.parametrize("name", ["runserver", "shell"])
def test_commands_of_others_get_keyboard_interrupts(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "other" / "management" / "commands"
    folder.mkdir(parents=True)
    (tmp_path / "settings.py").write_text("INSTALLED_APPS = ['other', 'ifserver.django']")
    (folder / f"{name}.py").write_text(
        "from django.core.management import BaseCommand\n"
        "class Command(BaseCommand):\n"
        "    def handle(self, **options):\n"
        "        try:\n"
        "            import antigravity_\n"
        "        except KeyboardInterrupt:\n"
        "            print('handled')\n"
    )
    code = "from django.core.management import execute_from_command_line as run; run(['manage.py', *sys.argv[1:]])"
    done = interrupted("antigravity_", name, "--settings", "settings", cwd=tmp_path, by=code)
    assert done.stdout == "interrupted\nhandled\n"


def test_who_ignores_it_goes_on_to() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        own_process.end_at_once()
        own_process.raise_again()
        assert own_process.keep_interrupts() == []
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_comes_meanwhile_is_kept() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        own_process.end_at_once()
        own_process.raise_again()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        kept = own_process.keep_interrupts()
        signal.raise_signal(signal.SIGINT)
        assert kept == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


# Memory.

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")

#: Takes and frees 512 KiB, as messages do, again and again; prints how many pages the kernel had to clear for that.
CHURN = """
import os, resource, sys
from ifserver.process.own_process import keep_freed
print(keep_freed(os.environ))
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytes(512 * 1024)
before = faults()
for _ in range(50):
    bytearray(b"x") * (512 * 1024)
    bytearray(b"x") * (300 * 1024)
print(faults() - before)
"""


#: The environment, without what tunes the C library.
PLAIN = {
    name: value for name, value in os.environ.items() if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
}


def churn(**environment: str) -> tuple[str, int]:
    command = [sys.executable, "-c", CHURN]
    done = subprocess.run(command, env=PLAIN | environment, capture_output=True, text=True, check=True, timeout=120)
    told, faults = done.stdout.split()
    return told, int(faults)


#: Frees 64 MiB, which small objects lie between; prints how many MiB of it the kernel has got before and after.
FREE = """
import os
from ifserver.process.own_process import give_back, keep_freed
from twisted.internet.task import Clock
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
keep_freed(os.environ)
clock = Clock()
give_back(clock)
blocks = [(b"x" * (512 * 1024), bytes(2000)) for _ in range(128)]
full = resident()
blocks = [small for _, small in blocks]
freed = resident()
clock.advance(10)
print(full - freed, full - resident())
"""


def test_what_is_freed_for_long_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", FREE], env=PLAIN, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before < 8
    assert after > 56


def test_to_give_back_takes_a_thousandth_of_the_time_at_most() -> None:
    clock, began = Clock(), []

    def trim(kept_bytes: int) -> None:
        began.append(clock.seconds())
        clock.rightNow += 0.05  # type: ignore[attr-defined]

    own_process.give_back(clock, trim)
    clock.pump([0.5] * 400)
    assert began[0] == 10
    assert all(50 <= after - before < 52 for before, after in itertools.pairwise(began))


def test_what_is_freed_is_used_again_without_the_kernel() -> None:
    told, faults = churn()
    assert told == "True"
    assert faults < 500  # 50 times 128 pages, if each were given back


@pytest.mark.parametrize(
    "environment", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}]
)
def test_who_tunes_the_c_library_is_not_interfered_with(environment: dict[str, str]) -> None:
    assert churn(**environment)[0] == "False"
