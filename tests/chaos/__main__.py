"""Chaos for long: ``make chaos``, or ::

    .venv/bin/python -m tests.chaos [--seconds 600] [--seed N] [--kind 'kill worker'] ...

Says its seed first, then every fault, and in the end everything that docs/explanation/failures.rst does not allow, with
the output of all processes; the exit status is 1 then. The seed gives the faults, their victims and what the clients
do, but not how processes race.
"""

from __future__ import annotations

import argparse
import sys
from random import SystemRandom

from tests.chaos.faults import KINDS
from tests.chaos.fleet import SHAPES
from tests.chaos.run import Plan, run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long to go on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1 << 32))
    parser.add_argument("--kind", choices=sorted(KINDS), action="append", help="only such faults (default: all)")
    parser.add_argument("--clients", type=float, default=1.0, help="how many, compared with the usual number")
    parser.add_argument("--shape", choices=SHAPES, default="two clusters", help="of the site (default: %(default)s)")
    parser.add_argument("--queue-timeout", type=float, default=30.0, help="of the servers (default: %(default)s)")
    parser.add_argument("--faults", type=int, help="how many at most (default: as many as fit)")
    parser.add_argument("--logs", action="store_true", help="show what the processes have written in any case")
    given = parser.parse_args()
    plan = Plan(
        given.seed, given.seconds, given.faults, given.kind, given.shape, given.clients, given.queue_timeout, given.logs
    )
    print(f"seed {plan.seed}, {plan.seconds:g} s", flush=True)
    found = run(plan, _say)
    for line in found:
        print(line)
    print(f"{len(found)} violations, seed {given.seed}" if found else "all is well")
    return 1 if found else 0


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
