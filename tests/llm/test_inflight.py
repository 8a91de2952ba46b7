"""Claims: two processes never ask the same at once, and the dead claim nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tapir_exp.llm.inflight import SCHEMA, InFlightLocks
from tapir_exp.llm.sqlite import Database

CLAIMER = """
import sys, time
from pathlib import Path
from tapir_exp.llm.inflight import SCHEMA, Claims
from tapir_exp.llm.sqlite import Database
claims = Claims(Database(Path(sys.argv[1]) / "traffic.sqlite", SCHEMA, durable=False))
sys.stdin.readline()
print(*[key for key in map(str, range(int(sys.argv[2]))) if claims.acquire(key)], flush=True)
time.sleep(60)
"""


@pytest.fixture
def open_claims(tmp_path: Path) -> Iterator[Callable[[], InFlightLocks]]:
    """Opens the claims as one more process would."""
    databases: list[Database] = []

    def opened() -> InFlightLocks:
        databases.append(Database(tmp_path / "traffic.sqlite", SCHEMA, durable=False))
        return InFlightLocks(databases[-1])

    yield opened
    for database in databases:
        database.close()


def start_claimer(where: Path, keys: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CLAIMER, str(where), str(keys)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def taken_by(process: "subprocess.Popen[str]") -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def begin(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def kill(process: "subprocess.Popen[str]") -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)


def test_a_key_is_taken_once_until_it_is_given_back(open_claims: Callable[[], InFlightLocks]) -> None:
    first, second = open_claims(), open_claims()
    assert first.acquire("k")
    assert not second.acquire("k")
    assert not first.acquire("k")
    assert second.acquire("other")
    second.release("k")
    assert not second.acquire("k")
    first.release("k")
    assert second.acquire("k")


def test_closing_gives_all_back(open_claims: Callable[[], InFlightLocks], tmp_path: Path) -> None:
    first, second = open_claims(), open_claims()
    assert first.acquire("a")
    assert first.acquire("b")
    assert second.acquire("c")
    first.close()
    assert second.acquire("a")
    assert second.acquire("b")
    assert not open_claims().acquire("c")
    second.close()
    assert len(list((tmp_path / "owners").iterdir())) == 1


def test_two_processes_take_every_key_once(tmp_path: Path) -> None:
    claimers = [start_claimer(tmp_path, 300) for _ in range(2)]
    for claimer in claimers:
        begin(claimer)
    taken = [key for claimer in claimers for key in taken_by(claimer)]
    for claimer in claimers:
        kill(claimer)
    assert sorted(taken, key=int) == [str(number) for number in range(300)]


def test_the_claims_of_a_killed_process_are_void_at_once(
    open_claims: Callable[[], InFlightLocks], tmp_path: Path
) -> None:
    claimer, claims = start_claimer(tmp_path, 3), open_claims()
    begin(claimer)
    assert taken_by(claimer) == ["0", "1", "2"]
    assert not claims.acquire("0")
    kill(claimer)
    assert [claims.acquire(key) for key in "012"] == [True] * 3
    assert len(list((tmp_path / "owners").iterdir())) == 1
