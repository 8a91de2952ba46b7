"""Lines about the progress of a long stage, for logs: what is done, at which rate, what is left, and the cost."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERVAL_S = 60.0
"""Seconds between two lines of a stage."""
Spent = Callable[[], float | None]
"""Returns what a stage has spent so far, in USD; None if a price is unknown."""

_spending: list[Spent] = []
"""Stages in progress that call chat models; several may run at once."""


@contextmanager
def counted_spend(spent: Spent) -> Iterator[None]:
    """Add the spend of a stage to the lines that are printed within the block."""
    _spending.append(spent)
    try:
        yield
    finally:
        _spending.remove(spent)


class ProgressLines:
    """Prints a line a minute, from a thread, so that a stage without any progress shows, too."""

    def __init__(self, label: str, total: int, write: Callable[[str], None]) -> None:
        """Set up the lines.

        Args:
            label: Name of the stage.
            total: Number of its steps.
            write: Prints a line.
        """
        self._label, self._total, self._write = label, total, write
        self.done = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Print the first line in a minute."""
        self._thread = threading.Thread(target=self._run, name="progress lines", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Print no more lines."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        done, at = self.done, time.monotonic()
        while not self._ended.wait(INTERVAL_S):
            now, newly = time.monotonic(), self.done
            self._write(format_progress(self._label, newly, self._total, (newly - done) / (now - at), spent_so_far()))
            done, at = newly, now


def spent_so_far() -> float | None:
    """Return what the stages in progress have spent, in USD; None if a price is unknown."""
    amounts = [spent() for spent in tuple(_spending)]
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None


def format_progress(label: str, done: int, total: int, rate: float, spent: float | None) -> str:
    """Return the line.

    Args:
        label: Name of the stage.
        done: Finished steps.
        total: All steps.
        rate: Steps per second in the last minute.
        spent: Spend in USD; None if a price is unknown.
    """
    parts = [f"  {label}: {done:,} of {total:,} ({done / max(total, 1):.0%})"]
    if rate > 0:
        parts.append(f"{rate:.3g} a second" if rate >= 1 else f"{60 * rate:.3g} a minute")
        parts.append(f"{format_duration(max(0, total - done) / rate)} left")
    else:
        parts.append(f"none in the last {format_duration(INTERVAL_S)}")
    if spent is None:
        parts.append("price unknown")
    elif spent:
        parts.append(f"spent ${spent:.{4 if spent < 1 else 2}f}")
    return ", ".join(parts)


def format_duration(seconds: float) -> str:
    """Return a duration in two units at most, such as `2 h 5 min`."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours / 24:.1f} days"
