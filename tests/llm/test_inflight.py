"""In-flight locks: one process per request, and void once its process has ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tapir_exp.llm.inflight import SCHEMA, InFlightLocks
from tapir_exp.llm.sqlite import Database

LOCKER = """
import sys, time
from pathlib import Path
from tapir_exp.llm.inflight import SCHEMA, InFlightLocks
from tapir_exp.llm.sqlite import Database
locks = InFlightLocks(Database(Path(sys.argv[1]) / "traffic.sqlite", SCHEMA, durable=False))
sys.stdin.readline()
print(*[key for key in map(str, range(int(sys.argv[2]))) if locks.acquire(key)], flush=True)
time.sleep(60)
"""


@pytest.fixture
def open_locks(tmp_path: Path) -> Iterator[Callable[[], InFlightLocks]]:
    """Return a factory of locks, each like those of a separate process."""
    databases: list[Database] = []

    def open_connection() -> InFlightLocks:
        databases.append(Database(tmp_path / "traffic.sqlite", SCHEMA, durable=False))
        return InFlightLocks(databases[-1])

    yield open_connection
    for database in databases:
        database.close()


def start_locker(root: Path, keys: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", LOCKER, str(root), str(keys)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def read_keys(process: "subprocess.Popen[str]") -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


def begin(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def kill(process: "subprocess.Popen[str]") -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)


def test_key_is_locked_until_released(open_locks: Callable[[], InFlightLocks]) -> None:
    first, second = open_locks(), open_locks()
    assert first.acquire("k")
    assert not second.acquire("k")
    assert not first.acquire("k")
    assert second.acquire("other")
    second.release("k")
    assert not second.acquire("k")
    first.release("k")
    assert second.acquire("k")


def test_close_releases_all_keys(open_locks: Callable[[], InFlightLocks], tmp_path: Path) -> None:
    first, second = open_locks(), open_locks()
    assert first.acquire("a")
    assert first.acquire("b")
    assert second.acquire("c")
    first.close()
    assert second.acquire("a")
    assert second.acquire("b")
    assert not open_locks().acquire("c")
    second.close()
    assert len(list((tmp_path / "owners").iterdir())) == 1


def test_two_processes_lock_each_key_once(tmp_path: Path) -> None:
    lockers = [start_locker(tmp_path, 300) for _ in range(2)]
    for locker in lockers:
        begin(locker)
    keys = [key for locker in lockers for key in read_keys(locker)]
    for locker in lockers:
        kill(locker)
    assert sorted(keys, key=int) == [str(number) for number in range(300)]


def test_locks_of_killed_process_are_void(open_locks: Callable[[], InFlightLocks], tmp_path: Path) -> None:
    locker, locks = start_locker(tmp_path, 3), open_locks()
    begin(locker)
    assert read_keys(locker) == ["0", "1", "2"]
    assert not locks.acquire("0")
    kill(locker)
    assert [locks.acquire(key) for key in "012"] == [True] * 3
    assert len(list((tmp_path / "owners").iterdir())) == 1
