"""``ifserver completion``: the script with which a shell completes the command's flags.

The scripts are made by ``docs/generate.py``, so a shell that reads one starts no Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ifserver.config import command_line

__all__ = ["FILES", "main"]

#: The script of each shell, under the name by which that shell finds it.
FILES: Final = {
    shell: Path(__file__).with_name("shells") / name
    for shell, name in {"bash": "ifserver.bash", "zsh": "_ifserver", "fish": "ifserver.fish"}.items()
}


def main(words: Sequence[str]) -> int:
    """Print the script; the exit code. Exits with status 2 and one line when the arguments are wrong."""
    given = command_line.make_parser(whole=False).parse_args(words)
    print(FILES[given.shell].read_text("utf-8"), end="")
    return 0
