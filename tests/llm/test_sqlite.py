"""The one file that runs and sweep jobs write to at once."""

import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from tapir_exp.core.errors import StoreError
from tapir_exp.llm.sqlite import Database

SCHEMA = "CREATE TABLE IF NOT EXISTS numbers (number INTEGER PRIMARY KEY);"

ADDER = """
import sys
from pathlib import Path
from tapir_exp.llm.sqlite import Database
database = Database(Path(sys.argv[1]), "CREATE TABLE IF NOT EXISTS sums (total INTEGER);", durable=False)
sys.stdin.readline()
for _ in range(1000):
    with database.transaction():
        (total,) = database.run("SELECT total FROM sums").fetchone()
        database.run("UPDATE sums SET total = ?", total + 1)
"""


def numbers(database: Database) -> list[int]:
    return [row[0] for row in database.run("SELECT number FROM numbers ORDER BY number")]


def test_a_statement_is_there_for_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file.sqlite"
    first, second = (Database(path, SCHEMA, durable=True) for _ in range(2))
    first.run("INSERT INTO numbers VALUES (?)", 1)
    first.run_many("INSERT INTO numbers VALUES (?)", [(2,), (3,)])
    assert numbers(second) == [1, 2, 3]


@pytest.mark.parametrize(("durable", "level"), [(True, 2), (False, 0)])
def test_a_durable_file_waits_for_the_disk(tmp_path: Path, durable: bool, level: int) -> None:
    database = Database(tmp_path / "file.sqlite", SCHEMA, durable=durable)
    assert database.run("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.run("PRAGMA synchronous").fetchone() == (level,)


def test_a_file_is_opened_by_many_at_once(tmp_path: Path) -> None:
    together = Barrier(8)

    def open_all(number: int) -> None:
        for count in range(100):
            together.wait(60)
            try:
                Database(tmp_path / f"{count}.sqlite", SCHEMA, durable=False).close()
            except StoreError:
                together.abort()
                raise

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_all, range(8)))


def test_a_transaction_is_seen_whole_or_not_at_all(tmp_path: Path) -> None:
    writer, reader = (Database(tmp_path / "file.sqlite", SCHEMA, durable=False) for _ in range(2))
    with writer.transaction():
        writer.run("INSERT INTO numbers VALUES (1)")
        assert numbers(reader) == []
    assert numbers(reader) == [1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_transaction_that_fails_leaves_nothing_and_the_next_one_works(
    tmp_path: Path, error: type[BaseException]
) -> None:
    database = Database(tmp_path / "file.sqlite", SCHEMA, durable=False)

    def write_and_fail() -> None:
        with database.transaction():
            database.run("INSERT INTO numbers VALUES (1)")
            raise error

    with pytest.raises(error):
        write_and_fail()
    with database.transaction():
        database.run("INSERT INTO numbers VALUES (2)")
    assert numbers(database) == [2]


def test_nobody_writes_within_anothers_transaction(tmp_path: Path) -> None:
    path = tmp_path / "file.sqlite"
    database = Database(path, "CREATE TABLE sums (total INTEGER); INSERT INTO sums VALUES (0);", durable=False)
    command = [sys.executable, "-c", ADDER, str(path)]
    adders = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(2)]
    time.sleep(0.5)  # both are waiting for their line, and begin together
    for adder in adders:
        assert adder.stdin is not None
        adder.stdin.write("\n")
        adder.stdin.flush()
    assert [adder.wait(60) for adder in adders] == [0, 0]
    assert database.run("SELECT total FROM sums").fetchone() == (2000,)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file.sqlite"
    path.write_text("This is a letter, not a database. " * 100)
    with pytest.raises(StoreError, match=r"file\.sqlite: not a database of tapir .*; move it away\."):
        Database(path, SCHEMA, durable=True)


def test_a_closed_file_is_let_go(tmp_path: Path) -> None:
    database = Database(tmp_path / "file.sqlite", SCHEMA, durable=True)
    database.close()
    assert [path.name for path in tmp_path.iterdir()] == ["file.sqlite"]
    with pytest.raises(sqlite3.ProgrammingError):
        numbers(database)
