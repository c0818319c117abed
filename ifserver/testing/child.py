"""``python -m ifserver.testing.child PARENT ...``: the command ``ifserver``, which ends with the process PARENT."""

import signal
import sys

from ifserver.__main__ import main
from ifserver.process.children import die_with_parent

if __name__ == "__main__":
    die_with_parent(int(sys.argv.pop(1)))
    # It is ended by SIGINT, which a shell script that starts the tests in the background has had ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
