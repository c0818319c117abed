"""Makes the Autobahn test suite run on Python 3, in a virtual environment of its own.

The suite is written in Python 2, and nothing of it is kept here: its source package is downloaded by pip into
``.venv-autobahn``, converted there by fissix (lib2to3, which Python has no longer) and then changed as `PATCHES` say.
What Python 2 calls a string are bytes to the suite. Here they remain ``str``, one character for each byte (latin-1),
and `client.py` encodes them where they leave the suite.

It runs on the autobahn of its own days, ten years older than the one in the product.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

__all__ = ["VENV", "is_made", "made"]

ROOT = Path(__file__).resolve().parent.parent.parent
VENV = ROOT / ".venv-autobahn"
#: Written last; says of what it was made.
STAMP = VENV / ".made"
#: What is taken from source packages. They are unpacked, not installed: setup.py of either is for other days.
SUITE = "autobahntestsuite==25.10.1"
AUTOBAHN = "autobahn==0.10.9"
#: pip runs setup.py to learn a package's name, and newer releases of setuptools do not have all that one asks for.
BUILD_CONSTRAINTS = "setuptools < 72\n"
#: What is installed. wsaccel masks and validates in C, without which the large messages take hours.
REQUIREMENTS = ("twisted >= 25.5", "txaio >= 25.6", "six", "wsaccel == 0.6.7", "fissix == 24.4.24")
#: What fissix is to change; not more, since everything else is done by name below.
FIXERS = ("dict", "except", "has_key", "import", "print", "unicode", "xrange")
#: File, what is there, what is put in its place. Each must be found, so that another release of the suite does not
#: pass unnoticed. The texts are those that fissix leaves.
PATCHES = (
    # The package imports everything there is, and the reactor.
    ("__init__.py", r"(?ms)^import warnings.*", ""),
    # For its reports in HTML and for wss, of which we want neither.
    ("fuzzing.py", r", pkg_resources\b", ""),
    ("fuzzing.py", r"import reactor, ssl\b", "import reactor"),
    ("fuzzing.py", r"from twisted\.web\..*", ""),
    ("fuzzing.py", r"(?s)from report import .*?JS_MASTER_REPORT\b", ""),
    ("fuzzing.py", r"ssl\.ClientContextFactory\(\)", "None"),
    # Classes that were old-style: `object` came first, and had nothing to say.
    ("case/*.py", r"\(object, Case, \)", "(Case,)"),
    # pickle tells two equal lists apart by which of their items are one and the same object.
    (
        "case/case.py",
        r"return pickle\.dumps\(obj1\) == pickle\.dumps\(obj2\)",
        "return _as_bytes(obj1) == _as_bytes(obj2)",
    ),
    ("case/case.py", r"\Z", "\n\nfrom ..python2 import as_bytes as _as_bytes\n"),
    ("case/case10_1_1.py", r"/ self\.p\.autoFragmentSize", "// self.p.autoFragmentSize"),
    ("case/case12_x_x.py", r", pkg_resources\b", ""),
    (
        "case/case12_x_x.py",
        r'pkg_resources\.resource_filename\("autobahntestsuite", ',
        "os.path.join(os.path.dirname(os.path.dirname(__file__)), ",
    ),
    ("case/case9_9_1.py", r"from zope\.interface import implements", ""),
    ("case/case9_9_1.py", r"implements\(.*\)", ""),
    # These work on bytes, and the suite gives them str.
    ("case/*.py", r"(?m)^import binascii$", "from ..python2 import binascii"),
    ("case/case6_x_x.py", r"from autobahn\.websocket\.utf8validator import", "from ..python2 import"),
    ("fuzzing.py", r"(?m)^import os, json, binascii, ", "from .python2 import binascii\nimport os, json, "),
    ("fuzzing.py", r"''\.join\(payload\)", "b''.join(payload)"),
)
#: ``autobahntestsuite/python2.py``: a few things as Python 2 had them, on str of latin-1.
PYTHON2 = '''
import binascii as _binascii

from autobahn.websocket import utf8validator as _utf8validator


def as_bytes(thing):
    """`thing` with every str in it encoded, one byte for each character."""
    if isinstance(thing, str):
        return thing.encode("latin-1")
    if isinstance(thing, (list, tuple)):
        return type(thing)(map(as_bytes, thing))
    return thing


class binascii:
    @staticmethod
    def b2a_hex(data):
        return _binascii.b2a_hex(as_bytes(data)).decode("ascii")

    hexlify = b2a_hex


class Utf8Validator:
    def __init__(self):
        self._validator = _utf8validator.Utf8Validator()
        self.reset = self._validator.reset

    def validate(self, data):
        return self._validator.validate(as_bytes(data))
'''


def is_made() -> bool:
    """Whether the suite is there, as this very file makes it."""
    return STAMP.exists() and STAMP.read_text() == _version()


def made() -> list[str]:
    """The command that runs Python with the suite, which is made first if need be."""
    python = str(VENV / "bin" / "python")
    folder = VENV / "suite"
    if not is_made():
        print(f"Making {VENV.name} with {SUITE}, converted to Python 3", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(VENV))
        _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS)
        folder.mkdir()
        _unpack(_downloaded(python, AUTOBAHN), "autobahn", folder)
        _unpack(_downloaded(python, SUITE), "autobahntestsuite", folder)
        _convert(python, folder / "autobahntestsuite")
        STAMP.write_text(_version())
    return ["env", f"PYTHONPATH={folder}", python]


def _version() -> str:
    return hashlib.sha256(Path(__file__).read_bytes() + sys.version.encode()).hexdigest()


def _run(*command: str, **environment: str) -> None:
    done = subprocess.run(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}\nThis has failed: {' '.join(command[:5])} ...")


def _downloaded(python: str, requirement: str) -> Path:
    """The source package of `requirement`."""
    name = requirement.partition("==")[0]
    folder = VENV / "downloads" / name
    folder.mkdir(parents=True)
    constraints = folder / "constraints.txt"
    constraints.write_text(BUILD_CONSTRAINTS)
    pip = (python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
    # The first is for pip before 25.3, the second for those after.
    limits = {"PIP_CONSTRAINT": str(constraints), "PIP_BUILD_CONSTRAINT": str(constraints)}
    _run(*pip, "--no-deps", "--no-binary", name, "--dest", str(folder), requirement, **limits)
    (package,) = folder.glob("*.tar.gz")
    return package


def _unpack(package: Path, module: str, folder: Path) -> None:
    """Unpack the folder `module` of `package` into `folder`."""
    with tarfile.open(package) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4
        for member in archive.getmembers():
            _, _, member.name = member.name.partition("/")
            if member.name.startswith(f"{module}/"):
                archive.extract(member, folder)


def _convert(python: str, package: Path) -> None:
    # The client is all that is wanted, not the other servers and tools.
    wanted = {package / name for name in ("__init__.py", "_version.py", "caseset.py", "fuzzing.py")}
    wanted |= set(package.glob("case/*.py"))
    for file in set(package.rglob("*.py")) - wanted:
        file.unlink()
    for file in wanted:
        # A byte of Python 2's is a character of latin-1: one that is not of ASCII is written as its escape.
        text = file.read_text("latin-1")
        file.write_text(re.sub(r"[\x80-\xff]", lambda found: f"\\x{ord(found[0]):02x}", text), "ascii")
    fixers = [word for name in FIXERS for word in ("-f", name)]
    _run(python, "-m", "fissix", *fixers, "--write", "--nobackups", "--no-diffs", *map(str, sorted(wanted)))
    (package / "python2.py").write_text(PYTHON2)
    for pattern, old, new in PATCHES:
        count = 0
        for file in package.glob(pattern):
            text, found = re.subn(old, lambda _, new=new: new, file.read_text("ascii"))
            count += found
            file.write_text(text, "ascii")
        if not count:
            raise RuntimeError(f"{SUITE}: {pattern} holds nothing like {old!r}")


if __name__ == "__main__":
    print(*made())
