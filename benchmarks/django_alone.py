"""What Django itself costs: a view is called in a loop, without a server: ``python -m benchmarks.django_alone VIEW
SECONDS``.

Writes a line when the site is loaded, and begins when it reads one. In the end it writes how many requests were
answered, and the CPU seconds that they took.
"""

from __future__ import annotations

import io
import sys
import time
from typing import Any

from benchmarks.django_site import application

__all__ = ["main", "request"]

_WARM_UP = 20


def request(path: str) -> bytes:
    """The body of the answer to a GET, as a WSGI server would ask for it (PEP 3333)."""
    statuses: list[str] = []
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "127.0.0.1",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.url_scheme": "http",
    }
    result = application(environ, lambda status, headers, error=None: statuses.append(status))
    try:
        body = b"".join(result)
    finally:
        result.close()
    if statuses != ["200 OK"]:
        raise RuntimeError(f"{path} is answered with {statuses}")
    return body


def main(view: str, seconds: float) -> None:
    """Measure, as said above."""
    path = f"/{view}"
    for _ in range(_WARM_UP):
        request(path)
    print("ready", flush=True)
    sys.stdin.readline()
    done, end, before_s = 0, time.monotonic() + seconds, time.process_time()
    while time.monotonic() < end:
        request(path)
        done += 1
    print(done, time.process_time() - before_s)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
