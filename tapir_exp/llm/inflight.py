"""Who is asking what at this moment, so that two processes never pay for the same call."""

import os
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from tapir_exp.llm.sqlite import Database

SCHEMA = "CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT) WITHOUT ROWID;"


class InFlightLocks:
    """The keys that this process and others are asking for. A process holds a lock on a file of its own while it
    lives, by which the others know that its claims count."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._owners = database.path.parent / "owners"
        self._owners.mkdir(exist_ok=True)
        self._owner = f"{os.getpid()}-{uuid4().hex[:8]}"
        self._alive = FileLock(self._lock_of(self._owner))
        self._alive.acquire()

    def acquire(self, key: str) -> bool:
        """Claim a key; False where a living process has it."""
        if self._insert(key):
            return True
        row = self._database.run("SELECT owner FROM claims WHERE key = ?", key).fetchone()
        if row is not None and not self._is_dead(row[0]):
            return False
        return self._insert(key)

    def release(self, key: str) -> None:
        """Give a key back."""
        self._database.run("DELETE FROM claims WHERE key = ? AND owner = ?", key, self._owner)

    def close(self) -> None:
        """Give back all that this process holds."""
        self._database.run("DELETE FROM claims WHERE owner = ?", self._owner)
        self._alive.release()
        self._lock_of(self._owner).unlink(missing_ok=True)

    def _insert(self, key: str) -> bool:
        done = self._database.run("INSERT INTO claims VALUES (?, ?) ON CONFLICT DO NOTHING", key, self._owner)
        return done.rowcount > 0

    def _is_dead(self, owner: str) -> bool:
        """Whether an owner has died, whose claims are then void."""
        if owner == self._owner:
            return False
        try:
            with FileLock(self._lock_of(owner), timeout=0):
                self._database.run("DELETE FROM claims WHERE owner = ?", owner)
        except Timeout:
            return False
        self._lock_of(owner).unlink(missing_ok=True)
        return True

    def _lock_of(self, owner: str) -> Path:
        return self._owners / f"{owner}.lock"
