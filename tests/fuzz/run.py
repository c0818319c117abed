"""Fuzzes what reads bytes from outside: ``make fuzz``, or ::

    .venv/bin/python -m tests.fuzz.run [--seconds 600] [--seed N] [--target http]

Says its seed first. A case that fails is named with what repeats it (``--seed N --target http --case M``), and the exit
status is 1. A case that takes longer than five seconds ends the run with all stacks.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import time
import traceback
from random import Random, SystemRandom

import uvloop

from ifserver.process import reactor

reactor.install(uvloop.new_event_loop())

# After the reactor, which some of what they import asks for.
from tests.fuzz.targets import TARGETS  # noqa: E402

#: How long one case may take, in seconds: a thousand times what it does.
HANG_S = 5.0


def play(target: str, seed: int, case: int) -> bool:
    """Play one case; whether all was well."""
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    try:
        TARGETS[target](Random(f"{seed} {target} {case}"))
    except Exception:
        traceback.print_exc()
        print(f"failed; again with: python -m tests.fuzz.run --seed {seed} --target {target} --case {case}")
        return False
    finally:
        faulthandler.cancel_dump_traceback_later()
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long to go on (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(1 << 32))
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", help="default: all, by turns")
    parser.add_argument("--case", type=int, help="this case alone")
    given = parser.parse_args()
    targets = given.target or list(TARGETS)
    if given.case is not None:
        return 0 if all(play(target, given.seed, given.case) for target in targets) else 1
    print(f"seed {given.seed}, {given.seconds:g} s: {', '.join(targets)}", flush=True)
    end = time.monotonic() + given.seconds
    case = 0
    while time.monotonic() < end:
        if not all(play(target, given.seed, case) for target in targets):
            return 1
        case += 1
    print(f"{case} cases of each")
    return 0


if __name__ == "__main__":
    sys.exit(main())
