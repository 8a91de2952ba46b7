"""Durable writes in groups: entries are committed together, and a thread waits until the disk has them.

A wait for the disk takes 1 to 10 ms, in which the event loop reads further replies. The commit itself stays in the
loop: a thread that runs statements competes with it for the interpreter, which costs more than the statements.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

ValueT = TypeVar("ValueT")

MIN_INTERVAL_S = 0.006
"""Least time between two transactions.

At 2,500 calls a second a group has 15 entries, which share the cost of a transaction. A longer interval would save
little, and a killed process would lose more replies.
"""
MAX_GROUP = 32
"""Entries that are committed at once, so that a killed process never loses more replies than these.

A pass of the loop that the machine delays may bring many replies, and each lets the next call start.
"""


@dataclass(eq=False)
class Entry:
    """A change that waits to be written.

    Attributes:
        run: Makes the change, within the transaction of the group.
        written: Set once the change is on disk.
    """

    run: Callable[[Any], Any]
    written: asyncio.Future[Any]


@dataclass(frozen=True)
class _Committed:
    """A group that is committed, and has to be on disk before its values may be used."""

    loop: asyncio.AbstractEventLoop
    entries: Sequence[Entry]
    values: Sequence[Any]


class GroupWriter:
    """Writes entries in groups, in the order of their submission. All methods belong to one thread."""

    def __init__(self, commit: Callable[[Sequence[Entry]], Sequence[Any]], sync: Callable[[], None]) -> None:
        """Set up the writer; its thread starts with the first entry.

        Args:
            commit: Runs all entries in one transaction, and returns their values.
            sync: Waits until everything that is committed is on disk; called in another thread.
        """
        self._commit, self._sync = commit, sync
        self._pending: list[Entry] = []
        self._committed_at = 0.0
        self._committed: SimpleQueue[_Committed | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, run: Callable[[Any], ValueT]) -> "asyncio.Future[ValueT]":
        """Add an entry; the result is set once it is on disk, or has failed."""
        loop = asyncio.get_running_loop()
        if self._pending and self._pending[0].written.get_loop() is not loop:
            self._write()  # that loop has ended before its timer
        entry = Entry(run, loop.create_future())
        self._pending.append(entry)
        # An entry that comes alone waits only until the end of this pass of the loop.
        if len(self._pending) == 1:
            loop.call_later(max(0.0, self._committed_at + MIN_INTERVAL_S - time.monotonic()), self._write)
        elif len(self._pending) == MAX_GROUP:
            self._write()
        return entry.written

    def close(self) -> None:
        """Write what is left, wait for the disk, and end the thread."""
        self._write()
        if self._thread is not None:
            self._committed.put(None)
            self._thread.join()
            self._thread = None

    def _write(self) -> None:
        group, self._pending = self._pending, []
        if not group:
            return
        self._committed_at = time.monotonic()
        loop = group[0].written.get_loop()
        try:
            values = self._commit(group)
        except Exception as error:
            # The transaction was rolled back, so every entry failed, not just the one that raised.
            if not loop.is_closed():
                _finish(group, [None] * len(group), error)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="call store", daemon=True)
            self._thread.start()
        self._committed.put(_Committed(loop, group, values))

    def _work(self) -> None:
        """Wait for the disk; the body of the thread."""
        while groups := list(self._take()):
            error: Exception | None = None
            try:
                self._sync()
            except Exception as raised:
                error = raised
            for group in groups:
                with suppress(RuntimeError):  # the loop has ended, so no caller waits
                    group.loop.call_soon_threadsafe(_finish, group.entries, group.values, error)

    def _take(self) -> Iterator[_Committed]:
        """Wait for groups, and yield all that are there; none at the end."""
        group = self._committed.get()
        while group is not None:
            yield group
            if self._committed.empty():
                return
            group = self._committed.get()
        self._committed.put(None)  # the end, for the next call


def _finish(entries: Sequence[Entry], values: Sequence[Any], error: Exception | None) -> None:
    """Set the results, in the thread of the event loop."""
    for entry, value in zip(entries, values, strict=True):
        if entry.written.done():
            continue
        if error is not None:
            entry.written.set_exception(error)
        else:
            entry.written.set_result(value)
