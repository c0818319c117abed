"""The command ``ifserver``, also as ``python -m ifserver``.

Help is printed before anything is imported that only running needs, which would take as long again.
"""

import gc
import sys

from ifserver.process import own_process

_ONLY_PRINT = {"-h", "--help", "--help-all", "--version"}


def main() -> int:
    """Run the command; returns its exit code."""
    own_process.end_at_once()
    # Imports make 40,000 objects that stay. To look for garbage among them again and again is a fifth of their time.
    gc.disable()
    from ifserver.net.lean_imports import be_lean

    be_lean()
    words = sys.argv[1:]
    if not words or not _ONLY_PRINT.isdisjoint(words):
        import contextlib

        from ifserver.config import arguments, command_line
        from ifserver.errors import ConfigurationError

        if not words or words[0] not in command_line.VIEWERS:
            # Exits, unless the word was the value of something else; then the error is printed below.
            with contextlib.suppress(ConfigurationError):
                arguments.parse(words)
    from ifserver import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
