"""Locks on requests in flight, so that two processes never pay for the same call."""

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from tapir_exp.llm.sqlite import Database

OWNERS = "owners"
"""Directory of a store with a locked file of each process that uses it."""
KEYS_PER_STATEMENT = 400
"""SQLite limits the number of parameters of a statement."""
SCHEMA = "CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT) WITHOUT ROWID;"


class InFlightLocks:
    """Locks on request keys, shared by all processes of a store.

    Each process holds a file lock as long as it runs. The request locks of a process that no longer holds its file lock
    are void.
    """

    def __init__(
        self,
        database: Database,
        job: Sequence[str] = (),
        on_lost: Callable[[Sequence[str], Sequence[str]], None] | None = None,
    ) -> None:
        """Open the locks, and clear those of processes that were killed.

        Args:
            database: The database that all processes share.
            job: Names of the job, for `on_lost` of a later process.
            on_lost: Called with the job of a killed process and the keys that it had in flight.
        """
        self._database = database
        self._on_lost = on_lost
        self._owners = database.path.parent / OWNERS
        self._owners.mkdir(exist_ok=True)
        # A process id alone could be reused by a later process.
        self._owner = f"{os.getpid()}-{uuid4().hex[:8]}"
        self._alive = FileLock(self._lock_path(self._owner))
        self._alive.acquire()
        self._held: set[str] = set()
        self._released: list[str] = []
        # Not in the lock file itself, which is emptied when a process tries the lock.
        if job:
            self._job_path(self._owner).write_text(json.dumps(list(job)), encoding="utf-8")
        # A process that has written this file holds its lock; one that is just starting may not hold it yet.
        for path in self._owners.glob("*.json"):
            self._clear_if_dead(path.stem)

    def acquire(self, key: str) -> bool:
        """Lock a key. Return False if a running process, including this one, holds it."""
        if key in self._held:
            return False
        if not self._insert([key]):
            row = self._database.run("SELECT owner FROM claims WHERE key = ?", key).fetchone()
            if row is not None and not self._clear_if_dead(row[0]):
                return False
            if not self._insert([key]):
                return False
        self._held.add(key)
        return True

    def acquire_many(self, keys: Iterable[str]) -> set[str]:
        """Lock the keys that are free, and return them."""
        wanted = list(dict.fromkeys(key for key in keys if key not in self._held))
        acquired: set[str] = set()
        for start in range(0, len(wanted), KEYS_PER_STATEMENT):
            chunk = wanted[start : start + KEYS_PER_STATEMENT]
            if self._insert(chunk) < len(chunk):
                marks = ",".join("?" * len(chunk))
                query = f"SELECT key FROM claims WHERE key IN ({marks}) AND owner = ?"
                chunk = [key for (key,) in self._database.run(query, *chunk, self._owner)]
            acquired.update(chunk)
        self._held |= acquired
        return acquired

    def release(self, key: str) -> None:
        """Release a key."""
        self._held.discard(key)
        self._database.run("DELETE FROM claims WHERE key = ? AND owner = ?", key, self._owner)

    def release_soon(self, key: str) -> None:
        """Release a key within this pass of the event loop, together with others."""
        self._released.append(key)
        if len(self._released) == 1:
            asyncio.get_running_loop().call_soon(self._release_all)

    def _release_all(self) -> None:
        released, self._released = self._released, []
        self._held.difference_update(released)
        for start in range(0, len(released), KEYS_PER_STATEMENT):
            keys = released[start : start + KEYS_PER_STATEMENT]
            marks = ",".join("?" * len(keys))
            self._database.run(f"DELETE FROM claims WHERE key IN ({marks}) AND owner = ?", *keys, self._owner)

    def close(self) -> None:
        """Release all keys of this process."""
        self._database.run("DELETE FROM claims WHERE owner = ?", self._owner)
        self._held.clear()
        self._released.clear()
        self._job_path(self._owner).unlink(missing_ok=True)
        self._alive.release()
        self._lock_path(self._owner).unlink(missing_ok=True)

    def _insert(self, keys: Sequence[str]) -> int:
        """Lock keys that are free, and return their number."""
        rows = ",".join(["(?, ?)"] * len(keys))
        values = [value for key in keys for value in (key, self._owner)]
        return self._database.run(f"INSERT INTO claims VALUES {rows} ON CONFLICT DO NOTHING", *values).rowcount

    def _clear_if_dead(self, owner: str) -> bool:
        """Delete the locks of `owner` if its process has ended. Return True if so."""
        if owner == self._owner:
            return False
        try:
            # Only a process that has ended leaves its file lock free.
            with FileLock(self._lock_path(owner), timeout=0):
                lost = [key for (key,) in self._database.run("SELECT key FROM claims WHERE owner = ?", owner)]
                self._report_lost(owner, lost)
                self._database.run("DELETE FROM claims WHERE owner = ?", owner)
                self._job_path(owner).unlink(missing_ok=True)
        except Timeout:
            return False
        self._lock_path(owner).unlink(missing_ok=True)
        return True

    def _report_lost(self, owner: str, keys: Sequence[str]) -> None:
        if self._on_lost is None or not keys:
            return
        # A store of an earlier version has no such file.
        with suppress(OSError, ValueError):
            job = json.loads(self._job_path(owner).read_text(encoding="utf-8"))
            self._on_lost(job, keys)

    def _lock_path(self, owner: str) -> Path:
        return self._owners / f"{owner}.lock"

    def _job_path(self, owner: str) -> Path:
        return self._owners / f"{owner}.json"
