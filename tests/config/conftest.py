from __future__ import annotations

import functools

from ifserver.config import arguments

# The same parser each time: to make one takes 13 ms, and a process outside of tests needs one or two.
arguments.make_parser = functools.cache(arguments.make_parser)  # type: ignore[assignment]
