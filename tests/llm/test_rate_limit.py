"""Rate limit: no window of 60 seconds exceeds it, and no call waits forever."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.llm import rate_limit
from tapir_exp.llm.rate_limit import MARGIN_S, SCHEMA, SLOT_S, WINDOW_S, RateLimiter, compute_wait
from tapir_exp.llm.sqlite import Database

START = 1_764_000_000.0
SOON_S = 1e-3

CALLER = """
import sys, time
from pathlib import Path
from tapir_exp.llm.sqlite import Database
from tapir_exp.llm.rate_limit import SCHEMA, RateLimiter
limiter = RateLimiter(Database(Path(sys.argv[1]), SCHEMA, durable=False), "a", 100, None)
print(sum(limiter.acquire(1, time.time()) == 0.0 for _ in range(300)))
"""


def limiter(requests: int | None = None, tokens: int | None = None, database: Database | None = None) -> RateLimiter:
    return RateLimiter(database or Database(Path(":memory:"), SCHEMA, durable=False), "account", requests, tokens)


calls = st.lists(
    st.tuples(
        st.floats(0.0, 40.0) | st.floats(0.0, 0.3),
        st.integers(1, 60),
        st.floats(0.0, 1.0),
        st.floats(0.0, 90.0) | st.floats(0.0, 1.0),
    ),
    max_size=60,
)
"""For each call: seconds since the previous one, estimated tokens, share used, seconds until it is corrected."""


@given(calls, st.integers(1, 6) | st.none(), st.integers(10, 100) | st.none())
def test_no_window_exceeds_limits(
    calls: list[tuple[float, int, float, float]], requests: int | None, tokens: int | None
) -> None:
    limiter_, now = limiter(requests, tokens), START
    started: list[tuple[float, int]] = []
    to_correct: list[tuple[float, int, float]] = []
    for gap_s, amount, share, latency_s in calls:
        now += gap_s
        while True:
            for pending in [pending for pending in to_correct if pending[0] <= now]:
                limiter_.correct(pending[1], pending[2])
                to_correct.remove(pending)
            if (wait_s := limiter_.acquire(amount, now)) == 0.0:
                break
            assert 0.0 < wait_s <= WINDOW_S + MARGIN_S + SLOT_S
            now += wait_s + SOON_S
        used = round(share * amount)
        started.append((now, used))
        to_correct.append((now + latency_s, used - amount, now))
        window = [used for when, used in started if when > now - WINDOW_S]
        assert requests is None or len(window) <= requests
        assert tokens is None or sum(window) <= tokens or len([used for used in window if used]) == 1


@given(st.lists(st.tuples(st.integers(0, 244), st.integers(1, 5), st.integers(0, 90))), st.integers(1, 200))
def test_call_fits_after_computed_wait(slots: list[tuple[int, int, int]], tokens: int) -> None:
    first = int(START / SLOT_S)
    recent = [
        (first + index, requests, used) for index, requests, used in sorted({slot[0]: slot for slot in slots}.values())
    ]
    now = START + WINDOW_S
    wait_s = compute_wait(recent, now, tokens, 7, 100)
    later = now + wait_s + SOON_S
    slots_later = [slot for slot in recent if (slot[0] + 1) * SLOT_S + WINDOW_S + MARGIN_S > later]
    assert compute_wait(slots_later, later, tokens, 7, 100) == 0.0
    if wait_s:
        before = now + wait_s - SLOT_S
        slots_before = [slot for slot in recent if (slot[0] + 1) * SLOT_S + WINDOW_S + MARGIN_S > before]
        assert before < now or compute_wait(slots_before, before, tokens, 7, 100) > 0.0


def test_acquire_returns_zero_within_limits() -> None:
    limiter_ = limiter(requests=3, tokens=30)
    assert [limiter_.acquire(10, START) for _ in range(3)] == [0.0] * 3
    assert limiter_.acquire(0, START) == pytest.approx(WINDOW_S + MARGIN_S + SLOT_S)
    assert limiter_.acquire(1, START + WINDOW_S + MARGIN_S + SLOT_S + SOON_S) == 0.0


def test_slots_expire_one_by_one() -> None:
    limiter_ = limiter(requests=2)
    assert (limiter_.acquire(1, START), limiter_.acquire(1, START + 30.0)) == (0.0, 0.0)
    assert limiter_.acquire(1, START + 40.0) == pytest.approx(20.0 + MARGIN_S + SLOT_S)
    assert limiter_.acquire(1, START + 61.0) == 0.0
    assert limiter_.acquire(1, START + 62.0) == pytest.approx(28.0 + MARGIN_S + SLOT_S)


def test_call_above_limit_waits_for_empty_window() -> None:
    limiter_ = limiter(tokens=100)
    assert limiter_.acquire(1, START) == 0.0
    assert limiter_.acquire(500, START + 10.0) == pytest.approx(50.0 + MARGIN_S + SLOT_S)
    assert limiter_.acquire(500, START + 61.0) == 0.0
    assert limiter_.acquire(1, START + 62.0) > 58.0


@pytest.mark.parametrize(("correction", "more"), [(-40, 60), (40, 0), (0, 20)])
def test_correct_replaces_estimate(correction: int, more: int) -> None:
    limiter_ = limiter(tokens=100)
    assert limiter_.acquire(80, START) == 0.0
    limiter_.correct(correction, START)
    assert limiter_.acquire(more + 1, START + 5.0) > 0.0
    if more:
        assert limiter_.acquire(more, START + 5.0) == 0.0


def test_corrected_tokens_expire_with_their_call() -> None:
    limiter_ = limiter(tokens=100)
    assert limiter_.acquire(100, START) == 0.0
    limiter_.correct(-90, START)
    assert limiter_.acquire(90, START + 5.0) == 0.0
    assert limiter_.acquire(11, START + 60.6) > 0.0
    assert limiter_.acquire(10, START + 60.6) == 0.0


def test_window_without_tokens_is_empty() -> None:
    assert compute_wait([(int(START / SLOT_S), 1, 0)], START, 500, None, 100) == 0.0


def test_unlimited_account_writes_nothing() -> None:
    database = Database(Path(":memory:"), SCHEMA, durable=False)
    limiter_ = limiter(database=database)
    assert [limiter_.acquire(10**9, START) for _ in range(1000)] == [0.0] * 1000
    limiter_.correct(10**9, START)
    assert database.run("SELECT count(*) FROM windows").fetchone() == (0,)


def test_old_slots_are_deleted() -> None:
    database = Database(Path(":memory:"), SCHEMA, durable=False)
    limiter_ = limiter(requests=10**6, database=database)
    for minute in range(100):
        limiter_.acquire(1, START + 60.0 * minute)
    assert database.run("SELECT count(*) FROM windows").fetchone()[0] <= 3


def test_pause_applies_to_all_limiters_of_account() -> None:
    database = Database(Path(":memory:"), SCHEMA, durable=False)
    first, second = limiter(database=database), limiter(requests=100, database=database)
    other = RateLimiter(database, "another", None, None)
    now = time.time()
    first.pause(20.0)
    second.pause(5.0)
    for limiter_ in (first, second):
        assert limiter_.acquire(1, now) == pytest.approx(20.0, abs=1.0)
        assert limiter_.acquire(1, now + 21.0) == 0.0
    assert other.acquire(1, now) == 0.0


def test_processes_share_limit(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CALLER, str(tmp_path / "traffic.sqlite")]
    callers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sum(int(caller.communicate(timeout=60)[0]) for caller in callers) == 100


class Clocks:
    """Clocks of the machine that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_s, self.monotonic_s = START, 1_000.0
        monkeypatch.setattr(rate_limit.time, "time", lambda: self.wall_s)
        monkeypatch.setattr(rate_limit.time, "monotonic", lambda: self.monotonic_s)

    def pass_s(self, seconds: float) -> None:
        self.wall_s, self.monotonic_s = self.wall_s + seconds, self.monotonic_s + seconds


@pytest.mark.parametrize("step_s", [-7_200.0, -30.0, 30.0, 7_200.0])
@pytest.mark.parametrize("same_process", [True, False])
def test_set_clock_neither_opens_nor_stops(monkeypatch: pytest.MonkeyPatch, step_s: float, same_process: bool) -> None:
    clocks, database = Clocks(monkeypatch), Database(Path(":memory:"), SCHEMA, durable=False)
    first = limiter(requests=1, database=database)
    assert first.acquire(1, first.now()) == 0.0
    clocks.pass_s(1.0)
    clocks.wall_s += step_s
    second = first if same_process else limiter(requests=1, database=database)
    assert 58.0 <= second.acquire(1, second.now()) <= 61.0
    clocks.pass_s(61.0)
    assert second.acquire(1, second.now()) == 0.0


@pytest.mark.parametrize("step_s", [-7_200.0, 7_200.0])
def test_set_clock_does_not_change_pause(monkeypatch: pytest.MonkeyPatch, step_s: float) -> None:
    clocks, database = Clocks(monkeypatch), Database(Path(":memory:"), SCHEMA, durable=False)
    limiter(database=database).pause(20.0)
    clocks.wall_s += step_s
    other = limiter(database=database)
    assert other.acquire(1, other.now()) == pytest.approx(20.0)
    assert other.paused


def test_store_of_machine_with_other_clock_waits_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls and pauses that lie in the future, as before a restart with a corrected clock, do not stop the run."""
    clocks, database = Clocks(monkeypatch), Database(Path(":memory:"), SCHEMA, durable=False)
    limiter_ = limiter(requests=1, database=database)
    assert limiter_.acquire(1, START + 86_400.0) == 0.0
    database.run("INSERT INTO gates VALUES (?, ?)", "account", START + 86_400.0)
    assert 59.0 <= limiter_.acquire(1, limiter_.now()) <= 61.0
    clocks.pass_s(61.0)
    assert limiter_.acquire(1, limiter_.now()) == 0.0
    limiter_.pause(5.0)
    assert limiter_.acquire(1, limiter_.now()) == pytest.approx(5.0)


def test_waiting_limit_is_named() -> None:
    limiter_ = limiter(requests=1)
    assert limiter_.acquire(1, START) == 0.0
    assert limiter_.acquire(1, START + 1) > 0.0
    assert (limiter_.limit, limiter_.paused) == ("llm.requests_per_minute=1", False)
