"""Slots that bound the calls in flight; a call returns its slot before its completion is on disk.

A write waits for the disk for milliseconds. A provider that replies as fast would be idle during the write if the call
kept its slot. So the next call starts as soon as the reply is there.
"""

import asyncio
from collections import deque
from contextvars import ContextVar

WRITING_PER_SLOT, MAX_WRITING = 4, 128
"""Most calls per slot, and in all, with a reply that is not on disk yet.

A kill loses only those whose group is not committed. With one call per slot, 16 calls of 5 ms would wait for the disk.
"""


class Slots:
    """A number of slots within one event loop, in the order of their requests.

    Attributes:
        limit: Number of slots. It may change at any time; slots above a smaller number are not taken again.
        taken: Slots in use.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        """Wait for a free slot, and take it."""
        if self.taken < self.limit and not self._waiting:
            self.taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The slot may have been given to this call just before.
            if turn.done() and not turn.cancelled():
                self.release()
            raise

    def release(self) -> None:
        """Return a slot."""
        self.taken -= 1
        self.wake()

    def wake(self) -> None:
        """Give free slots to calls that wait for one, such as after an increase of the limit."""
        while self._waiting and self.taken < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self.taken += 1
                turn.set_result(None)


class Slot:
    """A slot that is taken, returned and, for a repetition of the call, taken again."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._held = False

    async def take(self) -> None:
        """Take a slot, unless it is held."""
        if not self._held:
            await self._slots.acquire()
            self._held = True

    def give_back(self) -> None:
        """Return the slot, if it is held."""
        if self._held:
            self._held = False
            self._slots.release()


_current: ContextVar[Slot | None] = ContextVar("slot", default=None)


def set_current(slot: Slot) -> None:
    """Make a slot that of the calls of this task."""
    _current.set(slot)


async def take_slot() -> None:
    """Take the slot of the current call again, if it was returned."""
    if (slot := _current.get()) is not None:
        await slot.take()


def give_back_slot() -> None:
    """Return the slot of the current call: what is left of it concerns this machine only."""
    if (slot := _current.get()) is not None:
        slot.give_back()
