"""Serves sites that nobody here wrote, in all ways: ``make foreign-sites``, or ::

    .venv-foreign/bin/python -m tests.foreign [SITE ...] [--way 'run, pools'] [--peers] [--keep FOLDER]

Each site is made by its own starter and used as its users do. Prints one line for each scenario and way, then a table;
exit status 1 if anything failed. ``--peers`` serves the sites by uvicorn, Daphne and gunicorn instead, to see whether
what looks odd is ifserver's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from importlib import import_module, metadata
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.foreign.site import Project, Scenario, Site
from tests.foreign.ways import PEERS, WAYS, Way, serving
from tests.redis_server import RedisServer

SITES: Final = ("django", "wagtail", "rest_framework", "ninja", "strawberry", "eventstream")
#: Of these the versions are told.
PACKAGES: Final = (
    "ifserver", "django", "wagtail", "djangorestframework", "django-ninja", "strawberry-graphql", "django-eventstream",
    "channels", "django-debug-toolbar", "django-htmx", "whitenoise", "sentry-sdk", "gql",
)  # fmt: skip
#: What is shown beside the scenarios.
_ENDS: Final = "it starts, and ends in good order"


def main() -> int:
    """The command."""
    ways = {way.name: way for way in (*WAYS, *PEERS)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sites", nargs="*", metavar="SITE", help=f"of {', '.join(SITES)} (default: all)")
    parser.add_argument("--way", action="append", choices=ways, help="only these ways (default: all of ifserver)")
    parser.add_argument("--peers", action="store_true", help="only uvicorn, Daphne and gunicorn")
    parser.add_argument("--keep", type=Path, help="make the sites in this folder, and leave them there")
    given = parser.parse_args()
    if unknown := set(given.sites) - set(SITES):
        parser.error(f"no such site: {', '.join(sorted(unknown))}")
    chosen = [ways[name] for name in given.way or ()] or (PEERS if given.peers else WAYS)
    print(", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES), flush=True)
    console = Console(width=200)
    failed = 0
    with tempfile.TemporaryDirectory() as temporary, RedisServer() as redis:
        folder = given.keep or Path(temporary)
        for name in given.sites or SITES:
            site: Site = import_module(f"tests.foreign.sites.{name}").SITE
            project = site.made(folder / name)
            results = [_run(project, way, redis) for way in chosen]
            failed += sum(verdict == "FAILED" for result in results for verdict in result.values())
            console.print(_table(site, chosen, results))
    return 1 if failed else 0


def _run(project: Project, way: Way, redis: RedisServer) -> dict[str, str]:
    """Run what can be run of a site's scenarios in a way; the verdict on each."""
    scenarios = [scenario for scenario in project.site.scenarios if way.can(scenario.needs)]
    if not scenarios:
        return {}
    results: dict[str, str] = {}
    try:
        with serving(project, way, redis) as served:
            for scenario in scenarios:
                began = time.monotonic()
                before = len(served.output)
                try:
                    scenario.run(served)
                    results[scenario.name] = "ok"
                except Exception:
                    results[scenario.name] = "FAILED"
                    print(f"{traceback.format_exc()}\nMeanwhile the server wrote:\n{served.output[before:]}")
                _say(project.site, way, scenario, results[scenario.name], time.monotonic() - began)
    except Exception:
        traceback.print_exc()
        return {scenario.name: results.get(scenario.name, "FAILED") for scenario in scenarios} | {_ENDS: "FAILED"}
    return {**results, _ENDS: "ok"}


def _say(site: Site, way: Way, scenario: Scenario, verdict: str, seconds: float) -> None:
    print(f"{verdict:6} {site.name}, {way.name}: {scenario.name} ({seconds:.1f} s)", flush=True)


def _table(site: Site, ways: list[Way] | tuple[Way, ...], results: list[dict[str, str]]) -> Table:
    table = Table(site.name, *(way.name for way in ways))
    for name in [*(scenario.name for scenario in site.scenarios), _ENDS]:
        table.add_row(name, *(result.get(name, "-") for result in results))
    return table


if __name__ == "__main__":
    sys.exit(main())
