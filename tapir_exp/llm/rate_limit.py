"""Limits on requests and tokens per minute, shared by all processes of a store.

The limits hold for every window of 60 seconds, not just for calendar minutes. If a provider still refuses a call and
asks to wait (Retry-After), all processes pause. Time is counted by a clock that cannot be set. If the clock of the
machine is put back or forward, this neither stops a run nor opens a limit.
"""

import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from tapir_exp.llm.sqlite import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS windows
    (account TEXT, slot INTEGER, requests INTEGER, tokens INTEGER, PRIMARY KEY (account, slot)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gates (account TEXT PRIMARY KEY, opens REAL) WITHOUT ROWID;
"""
WINDOW_S = 60.0
SLOT_S = 0.25
"""Length of a slot, the unit in which calls are counted; a slot expires when all of it is older than the window."""
LOOK_INTERVAL_S = 0.05
"""Interval at which a process looks for a pause that another one has recorded; its own counts at once."""
MARGIN_S = 0.25
"""Extra wait before the next call, because requests reach the provider with varying delays."""

MAX_PAUSE_S = 600.0
"""Longest pause; one that ends later was written by a machine with another clock."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Slot = tuple[int, int, int]
"""Index of the slot (its start in units of SLOT_S since 1970), its requests and its tokens."""


class RateLimiter:
    """Rate limiter of one account at a provider.

    Attributes:
        limit: What the last call that `acquire` held back waits for.
        paused: Whether it waits because the provider asked for a pause.
        is_limited: Whether there is a limit, for which the tokens of a call have to be estimated.
    """

    def __init__(self, database: Database, account: str, requests: int | None, tokens: int | None) -> None:
        """Set up the limiter of an account.

        Args:
            database: The database that all processes share.
            account: Name of the account.
            requests: Requests per minute; None for no limit.
            tokens: Tokens per minute, prompt and completion; None for no limit.
        """
        self._database = database
        self._account = account
        self._requests = requests
        self._tokens = tokens
        self._start: float | None = None
        self._open_at = float("-inf")
        self.is_limited = requests is not None or tokens is not None
        self.limit = ""
        self.paused = False

    def now(self) -> float:
        """Return seconds since 1970 by the clock that all processes of this machine share.

        It is the time at which the first of them looked, plus what the machine's monotonic clock has counted since.
        """
        if self._start is None:
            self._start = self._shared_start()
        return self._start + time.monotonic()

    def acquire(self, tokens: int, now: float) -> float:
        """Start a call if the limits allow it.

        Args:
            tokens: Estimated tokens of the call.
            now: Seconds since 1970.

        Returns:
            0.0 if the call may start, and it is counted; else the seconds to wait before the next attempt. `limit`
            then names what they wait for.
        """
        # A pause applies even to accounts without limits.
        if not 0.0 <= now - self._open_at < LOOK_INTERVAL_S:
            opens = self._database.run("SELECT opens FROM gates WHERE account = ?", self._account).fetchone()
            if opens and now < opens[0] <= now + MAX_PAUSE_S:
                self.limit, self.paused = "a pause that the provider asked for", True
                return float(opens[0] - now)
            self._open_at = now
        if not self.is_limited:
            return 0.0
        # One transaction: otherwise two processes could both take the last free place of a window.
        with self._database.transaction():
            wait_s = compute_wait(self._recent(now), now, tokens, self._requests, self._tokens)
            if wait_s == 0.0:
                self._count(now, 1, tokens)
        if wait_s:
            self.paused = False
            self.limit = " and ".join(
                f"llm.{name}={value}"
                for name, value in (("requests_per_minute", self._requests), ("tokens_per_minute", self._tokens))
                if value is not None
            )
        return wait_s

    def correct(self, tokens: int, started: float) -> None:
        """Correct the tokens of a call once the provider has counted them.

        Args:
            tokens: Counted minus estimated tokens; may be negative.
            started: The time at which `acquire` let the call start.
        """
        if self._tokens is not None:
            self._count(started, 0, tokens)

    def pause(self, seconds: float) -> None:
        """Start no calls of this account for so many seconds; of several pauses the one that ends last counts."""
        now, self._open_at = self.now(), float("-inf")
        # A pause of another clock must not replace this one.
        self._database.run(
            "INSERT INTO gates VALUES (?, ?) ON CONFLICT DO UPDATE SET "
            "opens = CASE WHEN opens > ? THEN excluded.opens ELSE max(opens, excluded.opens) END",
            *(self._account, now + min(seconds, MAX_PAUSE_S), now + MAX_PAUSE_S),
        )

    def _shared_start(self) -> float:
        """Return the time at which the monotonic clock of this machine started, the same for all its processes."""
        name = f"clock {_boot_id()}"
        start = time.time() - time.monotonic()
        self._database.run("INSERT INTO gates VALUES (?, ?) ON CONFLICT DO NOTHING", name, start)
        return float(self._database.run("SELECT opens FROM gates WHERE account = ?", name).fetchone()[0])

    def _recent(self, now: float) -> list[Slot]:
        # Slots older than the window are deleted here, so the table stays small.
        oldest = int((now - WINDOW_S - MARGIN_S) / SLOT_S) - 1
        self._database.run("DELETE FROM windows WHERE account = ? AND slot < ?", self._account, oldest)
        # Slots of the future, written under another clock, count as calls of this moment: they expire in a minute.
        newest = int((now + MARGIN_S) / SLOT_S) + 1
        late = "FROM windows WHERE account = ? AND slot > ?"
        requests, tokens = self._database.run(
            f"SELECT sum(requests), sum(tokens) {late}", self._account, newest
        ).fetchone()
        if requests is not None:
            self._database.run(f"DELETE {late}", self._account, newest)
            self._count(now, requests, tokens)
        rows = self._database.run(
            "SELECT slot, requests, tokens FROM windows WHERE account = ? ORDER BY slot", self._account
        )
        return rows.fetchall()

    def _count(self, now: float, requests: int, tokens: int) -> None:
        self._database.run(
            "INSERT INTO windows VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
            "requests = requests + excluded.requests, tokens = tokens + excluded.tokens",
            *(self._account, int(now / SLOT_S), requests, tokens),
        )


@cache
def _boot_id() -> str:
    """Return what identifies the start of this machine; monotonic clocks begin anew at each start."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:  # not Linux
        return f"{time.time() - time.monotonic():.0f}"


def compute_wait(
    recent: Sequence[Slot], now: float, tokens: int, max_requests: int | None, max_tokens: int | None
) -> float:
    """Return the seconds until one more call fits into the window; 0.0 if it fits now.

    A call that is larger than the whole limit waits for an empty window.

    Args:
        recent: The slots of the last minute, oldest first.
        now: Seconds since 1970.
        tokens: Estimated tokens of the call.
        max_requests: Requests per minute; None for no limit.
        max_tokens: Tokens per minute; None for no limit.
    """
    requests, used = sum(slot[1] for slot in recent), sum(slot[2] for slot in recent)
    wait_s = 0.0
    # Let the oldest slots expire, one after the other, until the call fits.
    for index, slot_requests, slot_tokens in recent:
        if _within(requests + 1, max_requests) and (_within(used + tokens, max_tokens) or used <= 0):
            return wait_s
        wait_s = max(wait_s, (index + 1) * SLOT_S + WINDOW_S + MARGIN_S - now)
        requests, used = requests - slot_requests, used - slot_tokens
    return wait_s


def _within(amount: int, limit: int | None) -> bool:
    return limit is None or amount <= limit
