"""What becomes of freed memory, asked of a process of its own: the C library's settings are for good."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")

#: Takes and frees 512 KiB, as messages do, again and again; prints how many pages the kernel had to clear for that.
CHURN = """
import os, resource, sys
from ifserver.process.malloc import keep_freed
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


def churn(**environment: str) -> tuple[str, int]:
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    command = [sys.executable, "-c", CHURN]
    done = subprocess.run(command, env=plain | environment, capture_output=True, text=True, check=True, timeout=120)
    told, faults = done.stdout.split()
    return told, int(faults)


def test_what_is_freed_is_used_again_without_the_kernel() -> None:
    told, faults = churn()
    assert told == "True"
    assert faults < 500  # 50 times 128 pages, if each were given back


@pytest.mark.parametrize(
    "environment", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}]
)
def test_who_tunes_the_c_library_is_not_interfered_with(environment: dict[str, str]) -> None:
    assert churn(**environment)[0] == "False"
