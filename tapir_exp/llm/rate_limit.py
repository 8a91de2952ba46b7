"""Requests and tokens per minute, kept by all stages and by all processes that share a store.

At most so many requests start, and so many tokens are asked for, within any 60 seconds. A provider that counts in the
same way never has to say no; one that does (Retry-After) closes the gate for everybody.
"""

import time
from collections.abc import Sequence

from tapir_exp.llm.sqlite import Database

SCHEMA = """
CREATE TABLE IF NOT EXISTS windows
    (account TEXT, slot INTEGER, requests INTEGER, tokens INTEGER, PRIMARY KEY (account, slot)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gates (account TEXT PRIMARY KEY, opens REAL) WITHOUT ROWID;
"""
WINDOW_S = 60.0
SLOT_S = 0.25
"""Starts are counted in slots of this length; a slot is forgotten when all of it is older than the window."""
MARGIN_S = 0.25
"""How much later than allowed the next request starts: the provider's clock sees ours arrive at varying delays."""

Slot = tuple[int, int, int]
"""Number of the slot (its start in units of SLOT_S since 1970), requests and tokens in it."""


class RateLimiter:
    """The gate to one account at a provider, the same for every process."""

    def __init__(self, database: Database, account: str, requests: int | None, tokens: int | None) -> None:
        """requests, tokens: what a minute may hold; None for no limit."""
        self._database = database
        self._account = account
        self._requests = requests
        self._tokens = tokens

    def acquire(self, tokens: int, now: float) -> float:
        """Let a request of about so many tokens start: 0.0, and it is counted; else the seconds until another try.

        now: seconds since 1970.
        """
        opens = self._database.run("SELECT opens FROM gates WHERE account = ?", self._account).fetchone()
        if opens and opens[0] > now:
            return float(opens[0] - now)
        if self._requests is None and self._tokens is None:
            return 0.0
        with self._database.transaction():
            wait_s = compute_wait(self._recent(now), now, tokens, self._requests, self._tokens)
            if wait_s == 0.0:
                self._count(now, 1, tokens)
        return wait_s

    def correct(self, tokens: int, admitted: float) -> None:
        """Count so many tokens more, or fewer, for a request that `admit` let in at that time."""
        if self._tokens is not None:
            self._count(admitted, 0, tokens)

    def pause(self, seconds: float) -> None:
        """Let nobody in for so long; the longest such wish counts."""
        self._database.run(
            "INSERT INTO gates VALUES (?, ?) ON CONFLICT DO UPDATE SET opens = max(opens, excluded.opens)",
            *(self._account, time.time() + seconds),
        )

    def _recent(self, now: float) -> list[Slot]:
        oldest = int((now - WINDOW_S - MARGIN_S) / SLOT_S) - 1
        self._database.run("DELETE FROM windows WHERE account = ? AND slot < ?", self._account, oldest)
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


def compute_wait(
    recent: Sequence[Slot], now: float, tokens: int, most_requests: int | None, most_tokens: int | None
) -> float:
    """Seconds until one more request of `tokens` fits into the window; 0.0 where it fits now. Pure.

    recent: the slots of the last minute, oldest first. A request larger than the whole limit waits for an empty window.
    """
    requests, used = sum(slot[1] for slot in recent), sum(slot[2] for slot in recent)
    wait_s = 0.0
    for slot, of_slot, tokens_of_slot in recent:
        if _fits(requests + 1, most_requests) and (_fits(used + tokens, most_tokens) or used <= 0):
            return wait_s
        wait_s = max(wait_s, (slot + 1) * SLOT_S + WINDOW_S + MARGIN_S - now)
        requests, used = requests - of_slot, used - tokens_of_slot
    return wait_s


def _fits(amount: int, most: int | None) -> bool:
    return most is None or amount <= most
