"""The chat's memory: a log of messages in one SQLite file, which every worker process opens."""

import asyncio
import fcntl
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar, TypeVarTuple

__all__ = ["KEPT_MESSAGES", "Message", "MessageLog"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

KEPT_MESSAGES = 1000  # older ones are deleted, so the file does not grow for ever
LOCK_TIMEOUT_SECONDS = 5.0

# AUTOINCREMENT: an id is never used twice, so "everything after id 7" always means the same.
SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sent_at REAL NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL, key TEXT
)
"""
# Files of former versions have no keys. A unique index admits any number of messages without one.
ADD_KEYS = "ALTER TABLE messages ADD COLUMN key TEXT"
INDEX_KEYS = "CREATE UNIQUE INDEX IF NOT EXISTS messages_by_key ON messages (key)"

# Not INSERT OR IGNORE, which would use up an id for what it ignores.
APPEND = """
INSERT INTO messages (sent_at, name, text, key)
SELECT :sent_at, :name, :text, :key WHERE NOT EXISTS (SELECT 1 FROM messages WHERE key = :key)
"""


class Message(NamedTuple):
    id: int
    sent_at: float  # seconds since the epoch
    name: str
    text: str
    key: str | None  # what the sender knows it by


class MessageLog:
    """Messages in the order of their ids, which rise by one.

    SQLite admits one writer at a time, so ids also become visible in order: whoever asks for what is newer than the
    last id it saw misses nothing. Every call runs in the one thread that owns the connection, and blocks no event loop.

    Every call raises ``sqlite3.Error`` or ``OSError`` when the file cannot be opened, read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="chat-log")
        self._connection: sqlite3.Connection | None = None

    async def append(self, name: str, text: str, key: str | None) -> None:
        """Add a message, unless one with the same key is kept here already."""
        await self._run(self._append, name, text, key)

    async def newest_id(self) -> int:
        """The id of the last message; 0 if there is none."""
        return await self._run(self._newest_id)

    async def newer_than(self, message_id: int) -> list[Message]:
        return await self._run(self._newer_than, message_id)

    async def close(self) -> None:
        """Close the file; the next call would open it again."""
        await self._run(self._close)

    async def _run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _append(self, name: str, text: str, key: str | None) -> None:
        with self._open() as transaction:
            transaction.execute(APPEND, {"sent_at": time.time(), "name": name, "text": text, "key": key})
            transaction.execute("DELETE FROM messages WHERE id <= (SELECT MAX(id) FROM messages) - ?", (KEPT_MESSAGES,))

    def _newest_id(self) -> int:
        newest: int | None = self._open().execute("SELECT MAX(id) FROM messages").fetchone()[0]
        return newest or 0

    def _newer_than(self, message_id: int) -> list[Message]:
        rows = self._open().execute(
            "SELECT id, sent_at, name, text, key FROM messages WHERE id > ? ORDER BY id", (message_id,)
        )
        return [Message(*row) for row in rows]

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Processes that start together take turns: where SQLite waits for every other lock, the switch to the
            # write-ahead log may fail at once. With that log, readers and the writer do not wait for each other.
            with self._path.with_suffix(".lock").open("w") as turn:
                fcntl.flock(turn, fcntl.LOCK_EX)
                connection = sqlite3.connect(self._path, timeout=LOCK_TIMEOUT_SECONDS)
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(SCHEMA)
                if "key" not in [column for _, column, *_ in connection.execute("PRAGMA table_info(messages)")]:
                    connection.execute(ADD_KEYS)
                connection.execute(INDEX_KEYS)
            self._connection = connection
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
