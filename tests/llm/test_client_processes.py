"""Clients in processes that are stopped at random moments, and in concurrent processes."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from assets import SUPPORT
from faulty import FaultyServer
from serving import serving

from tapir_exp.config import SpendConfig
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.ledger import Spend, SpendScope

REQUEST_PROCESS = SUPPORT / "request_process.py"
IN_FLIGHT = 16
KILLS = 20


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving(FaultyServer(delay_s=0.05)) as server:
        yield server


def start(server: FaultyServer, store: Path, rows: int, *settings: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(REQUEST_PROCESS), server.base, str(store), str(rows), *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process: "subprocess.Popen[str]") -> list[str]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    replies: list[str] = json.loads(out)
    return replies


def spent(store: Path, job: str = "") -> Spend:
    call_store = CallStore(store, SpendScope("sweep", job), SpendConfig())
    total = call_store.ledger.spent_by_scope()
    call_store.close()
    return total


@pytest.mark.slow
@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGINT], ids=lambda sig: sig.name)
def test_process_stopped_twenty_times_completes(server: FaultyServer, tmp_path: Path, sig: signal.Signals) -> None:
    rows, rng = 1600, Random(sig.name)
    for _ in range(KILLS):
        before = len(server.seen)
        process = start(server, tmp_path, rows)
        while len(server.seen) < before + rng.randint(1, 60):
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        stopped = time.monotonic()
        process.send_signal(sig)
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - stopped < 5
        assert out == ""
        if sig is signal.SIGINT:
            assert "rows: stopped after" in err
    assert end(start(server, tmp_path, rows)) == [f"re: question {n}" for n in range(rows)]
    paid_twice = sum(server.paid.values()) - rows
    # Besides the calls in flight, as many replies may wait for their transaction.
    assert paid_twice <= 2 * IN_FLIGHT * KILLS
    if sig is signal.SIGINT:  # what was in flight had time to arrive
        assert paid_twice == 0
    assert spent(tmp_path).calls == rows


@pytest.mark.slow
def test_two_processes_share_completions(server: FaultyServer, tmp_path: Path) -> None:
    processes = [start(server, tmp_path, 300, f'job="{n}"') for n in range(2)]
    expected = [f"re: question {n}" for n in range(300)]
    assert [end(process) for process in processes] == [expected, expected]
    assert sum(server.paid.values()) == 300
    assert spent(tmp_path).calls == 300


@pytest.mark.slow
def test_two_processes_share_budget(server: FaultyServer, tmp_path: Path) -> None:
    first = start(server, tmp_path, 200, 'job="0"', "max_calls=120")
    other = start(server, tmp_path, 400, 'job="1"', "max_calls=120")
    for process in (first, other):
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (1, "")
        assert "The budget of sweep is spent" in err
        assert "spend.max_calls=120" in err
    assert 120 <= spent(tmp_path).calls <= 120 + 2 * IN_FLIGHT
    assert sum(server.paid.values()) == spent(tmp_path).calls


@pytest.mark.slow
def test_larger_budget_resumes(server: FaultyServer, tmp_path: Path) -> None:
    assert start(server, tmp_path, 100, "max_calls=50").wait(60) == 1
    assert len(end(start(server, tmp_path, 100, "max_calls=101"))) == 100
    assert sum(server.paid.values()) == 100


@pytest.mark.slow
@pytest.mark.timing
def test_two_processes_share_rate_limit(server: FaultyServer, tmp_path: Path) -> None:
    """Use a window of 15 seconds, so that the test need not wait for a minute."""
    limits = ("requests_per_minute=40", "window_s=15")
    processes = [start(server, tmp_path, 50 + n, f'job="{n}"', *limits) for n in range(2)]
    assert [len(end(process)) for process in processes] == [50, 51]
    times = sorted(when for _, when in server.seen)
    assert len(times) == 51
    assert times[39] - times[0] < 10
    assert times[40] - times[0] >= 15
