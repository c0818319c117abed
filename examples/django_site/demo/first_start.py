"""What the first start makes: the secret key, the database's tables and a superuser.

Several worker processes may start at the same moment, so all of it happens under one file lock. Whoever comes second
finds it done.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

__all__ = ["prepare_database", "read_or_make_secret_key"]


def read_or_make_secret_key(data_dir: Path) -> str:
    path = data_dir / "secret_key"
    with lock(data_dir):
        if not path.exists():
            draft = path.with_suffix(".draft")
            draft.touch(mode=0o600)
            draft.write_text(secrets.token_urlsafe(50))
            draft.replace(path)  # all of the key or none, even if this process dies half-way
        return path.read_text()


def prepare_database() -> None:
    """Bring the tables up to date, and make the superuser if there is none. Call it after ``django.setup()``."""
    # In a thread of its own, because a server may import the application while its event loop is running, and Django
    # forbids database work there.
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(_prepare_database).result()


def _prepare_database() -> None:
    from django.conf import settings
    from django.contrib.auth import get_user_model
    from django.core.management import call_command
    from django.db import connection

    with lock(settings.DATA_DIR):
        try:
            call_command("migrate", interactive=False, verbosity=0)
            users = get_user_model().objects
            if not users.filter(is_superuser=True).exists():
                password = os.environ.get("DJANGO_SITE_ADMIN_PASSWORD") or "admin"
                users.create_superuser("admin", email="", password=password)
        finally:
            connection.close()


@contextmanager
def lock(data_dir: Path) -> Iterator[None]:
    """Wait until no other process is in here. The kernel lets go of the lock of a process that dies."""
    with (data_dir / "first_start.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
