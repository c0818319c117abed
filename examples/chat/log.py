"""The chat's memory: a log of messages in one SQLite file, which every worker process opens."""

import asyncio
import fcntl
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

__all__ = ["MessageLog"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Message = dict[str, Any]  # with the columns as keys

KEPT_MESSAGES = 1000  # older ones are deleted, so the file does not grow for ever
LOCK_TIMEOUT_SECONDS = 5.0

SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, sent_at REAL NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL, key TEXT
)
"""
# Files of former versions have no keys. A unique index admits any number of messages without one.
ADD_KEYS = "ALTER TABLE messages ADD COLUMN key TEXT"
INDEX_KEYS = "CREATE UNIQUE INDEX IF NOT EXISTS messages_by_key ON messages (key)"

COLUMNS = "id, sent_at, name, text, key"


class MessageLog:
    """Messages with ids that rise by one.

    Every call runs in the one thread that owns the connection, and blocks no event loop. It raises ``sqlite3.Error`` or
    ``OSError`` when the file cannot be opened, read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="chat-log")
        self._connection: sqlite3.Connection | None = None

    async def append(self, name: str, text: str, key: str | None) -> Message:
        """Add a message, unless one with the same key is here already. Returns the one that is here."""
        return await self._run(self._append, name, text, key)

    async def newest(self, count: int) -> list[Message]:
        """The last messages, in the order of their ids."""
        return await self._run(self._newest, count)

    async def close(self) -> None:
        """Close the file; the next call would open it again."""
        await self._run(self._close)

    async def _run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _append(self, name: str, text: str, key: str | None) -> Message:
        with self._open() as connection:
            # One process at a time, from here to the end of the transaction.
            connection.execute("BEGIN IMMEDIATE")
            found = connection.execute(f"SELECT {COLUMNS} FROM messages WHERE key = ?", (key,)).fetchone()
            if found is not None:
                return dict(found)
            message = {"sent_at": time.time(), "name": name, "text": text, "key": key}
            insert = "INSERT INTO messages (sent_at, name, text, key) VALUES (:sent_at, :name, :text, :key)"
            message_id = connection.execute(insert, message).lastrowid
            connection.execute("DELETE FROM messages WHERE id <= ? - ?", (message_id, KEPT_MESSAGES))
            return {"id": message_id, **message}

    def _newest(self, count: int) -> list[Message]:
        rows = self._open().execute(f"SELECT {COLUMNS} FROM messages ORDER BY id DESC LIMIT ?", (count,))
        return [dict(row) for row in rows][::-1]

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Processes that start together take turns: where SQLite waits for every other lock, the switch to the
            # write-ahead log may fail at once. With that log, readers and the writer do not wait for each other.
            with self._path.with_suffix(".lock").open("w") as turn:
                fcntl.flock(turn, fcntl.LOCK_EX)
                connection = sqlite3.connect(self._path, timeout=LOCK_TIMEOUT_SECONDS)
                connection.row_factory = sqlite3.Row
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
