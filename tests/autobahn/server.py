"""The command ``ifserver`` with settings that its command line has no options for: messages as large as the Autobahn
test suite's (16 MiB), and compression on or off (IFSERVER_COMPRESSION)."""

from __future__ import annotations

import os
import sys

from msgspec.structs import replace

from ifserver import arguments, cli

MAX_MESSAGE_BYTES = 16 * 1024 * 1024

front_settings, worker_settings = arguments.front_settings, arguments.worker_settings
arguments.front_settings = lambda given: replace(
    front_settings(given),
    max_websocket_message_bytes=MAX_MESSAGE_BYTES,
    websocket_compression=os.environ["IFSERVER_COMPRESSION"] == "on",
)
arguments.worker_settings = lambda given: replace(worker_settings(given), max_websocket_message_bytes=MAX_MESSAGE_BYTES)

if __name__ == "__main__":
    sys.exit(cli.main())
