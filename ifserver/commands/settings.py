"""``ifserver settings``: the settings that hold, as a table, as JSON or as a file."""

from __future__ import annotations

import argparse
import os

from ifserver.config import manual

__all__ = ["main"]


def main(given: argparse.Namespace) -> int:
    """Print them; the exit code."""
    configuration = given.configuration
    if given.example or given.rst:
        text = manual.example() if given.example else manual.rst()
    else:
        manual.check(configuration, os.environ)
        text = (manual.json if given.json else manual.table)(configuration, os.environ)
    print(text, end="")
    return 0
