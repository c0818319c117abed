"""The source distribution and the wheel, as ``make dist`` builds them: what is in them, that they can be built again,
and that the wheel is all that an empty environment needs."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from docutils.core import publish_string
from docutils.writers import html5_polyglot
from packaging.metadata import Metadata

import ifserver

ROOT = Path(__file__).parent.parent
NAME = f"ifserver-{ifserver.__version__}"
#: Some time: that of every file in what is built.
EPOCH = 1_700_000_000


def files() -> list[str]:
    """The files of the project, from `ROOT`: those of the checkout, or of the source distribution."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
        found = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    else:
        found = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*")]
    made = ("__pycache__", "ifserver.egg-info", "build", "dist", "test-artefacts", "PKG-INFO")
    return sorted(
        name
        for name in found
        if name and name[0] != "." and (ROOT / name).is_file() and not set(Path(name).parts).intersection(made)
    )


class Built(NamedTuple):
    """What ``tools/make-dist`` has made."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, Built]:
    """Built from two copies of the project, made at different times by users with different habits."""
    builds = []
    for umask, age_s in ((0o022, 0), (0o077, 1_000_000)):
        folder = tmp_path_factory.mktemp("built")
        for name in files():
            copy = folder / "source" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy)
            copy.chmod((0o777 if os.access(ROOT / name, os.X_OK) else 0o666) & ~umask)
            os.utime(copy, (EPOCH + age_s, EPOCH + age_s))
        command = [sys.executable, str(folder / "source/tools/make-dist"), str(folder)]
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH)}
        builds.append((folder, subprocess.Popen(command, env=environment, umask=umask)))
    for _, process in builds:
        assert process.wait(timeout=300) == 0
    first, second = (Built(folder / f"{NAME}.tar.gz", folder / f"{NAME}-py3-none-any.whl") for folder, _ in builds)
    return first, second


@pytest.fixture(scope="module")
def built(twice: tuple[Built, Built]) -> Built:
    return twice[0]


def test_it_is_the_same_when_it_is_built_again(twice: tuple[Built, Built]) -> None:
    first, second = twice
    assert first.sdist.read_bytes() == second.sdist.read_bytes()
    assert first.wheel.read_bytes() == second.wheel.read_bytes()
    with tarfile.open(first.sdist) as archive:
        members = archive.getmembers()
    assert {(each.mtime, each.uid, each.gid, each.uname, each.gname) for each in members} == {(EPOCH, 0, 0, "", "")}


def test_the_source_distribution_has_every_file(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {each.name.removeprefix(f"{NAME}/") for each in archive.getmembers() if each.isfile()}
    assert set(files()) - names == set()
    assert {name for name in names - set(files()) if not name.startswith("ifserver.egg-info/")} == {"PKG-INFO"}


def test_the_wheel_has_the_package_and_what_belongs_to_it(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0] for name in names} == {"ifserver", f"{NAME}.dist-info", f"{NAME}.data"}
    package = {name for name in files() if name.startswith("ifserver/")}
    assert {"ifserver/py.typed", "ifserver/observe/admin/view/page.html"} <= package
    assert {name for name in names if name.startswith("ifserver/")} == package
    data = {name.removeprefix(f"{NAME}.data/data/") for name in names if name.startswith(f"{NAME}.data/")}
    assert data == {
        "share/man/man1/ifserver.1",
        "share/bash-completion/completions/ifserver.bash",
        "share/zsh/site-functions/_ifserver",
        "share/fish/vendor_completions.d/ifserver.fish",
        *(
            f"share/ifserver/{folder}/{path.name}"
            for folder in ("systemd", "nginx", "haproxy", "grafana")
            for path in (ROOT / "packaging" / folder).iterdir()
        ),
    }


def test_what_an_index_shows(built: Built) -> None:
    """As ``twine check`` looks at it."""
    with zipfile.ZipFile(built.wheel) as archive:
        metadata = Metadata.from_email(archive.read(f"{NAME}.dist-info/METADATA"), validate=True)
    assert (metadata.name, str(metadata.version)) == ("ifserver", ifserver.__version__)
    assert (metadata.description_content_type, metadata.requires_python) == ("text/x-rst", ">=3.11")
    assert metadata.provides_extra is not None
    assert {"channels", "django", "otel"} <= set(metadata.provides_extra)
    description = metadata.description
    assert description is not None
    assert ".. image::" not in description, "it would be a picture that is not there"
    # No warning, and nothing that an index does not allow.
    strict = {"halt_level": 2, "report_level": 2, "raw_enabled": False, "file_insertion_enabled": False}
    publish_string(description, writer=html5_polyglot.Writer(), settings_overrides=strict)


# Installed.


class Installed(NamedTuple):
    """An environment with nothing but the wheel. It finds the dependencies here, behind what is its own."""

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        """What a command prints that is installed there."""
        done = subprocess.run(
            [self.folder / "bin" / command[0], *command[1:]],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("environment")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(folder / "bin/python")]
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [*pip, "install", "--quiet", "--no-compile", "--no-deps", "--no-index", str(built.wheel)],
    ):
        subprocess.run(command, check=True, timeout=120, env=environment, cwd=folder)
    [packages] = folder.glob("lib/python*/site-packages")
    # Behind its own; and of a path that is found so, no other .pth is read, such as that of an editable install.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return Installed(folder, environment | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"})


def test_it_says_who_it_is(installed: Installed) -> None:
    assert installed.run("ifserver", "--version") == f"ifserver {ifserver.__version__}\n"
    where = installed.run(
        "python", "-c", "import ifserver.observe.admin.live_view as it; it.page(); print(it.__file__)"
    )
    assert where.startswith(str(installed.folder))


def test_it_completes_itself(installed: Installed) -> None:
    assert installed.run("ifserver", "completion", "zsh").startswith("#compdef ifserver\n")


@pytest.mark.skipif(shutil.which("man") is None, reason="there is no man")
def test_man_finds_its_page(installed: Installed) -> None:
    """The one of the environment that is active."""
    found = subprocess.run(["man", "--where", "ifserver"], env=installed.environment, capture_output=True, text=True)
    assert found.stdout.strip() == str(installed.folder / "share/man/man1/ifserver.1"), found.stderr


@pytest.fixture
def address(installed: Installed, tmp_path: Path) -> Iterator[str]:
    """A Unix socket on which ``ifserver run`` answers."""
    path = str(tmp_path / "socket")
    command = ["ifserver", "run", "hello:app", "--app-dir", str(ROOT / "examples"), "-u", path, "--workers", "1"]
    process = subprocess.Popen(command, env=installed.environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process:
        said = []
        for line in process.stderr:
            said.append(line)
            if f"listening on unix:{path}" in line:
                break
        else:
            pytest.fail("".join(said))
        yield path
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0


def test_it_serves_a_request(address: str) -> None:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(120)
    connection.sock.connect(address)
    connection.request("GET", "/")
    response = connection.getresponse()
    assert (response.status, response.getheader("Server")) == (200, "ifserver")
    connection.close()
