"""Rows on the disk: read in any order, kept by a killed process, and cut where a file is damaged."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tapir_exp.core.errors import StoreError
from tapir_exp.core.records import Response
from tapir_exp.core.store import Store, write_rows
from tapir_exp.core.stored_rows import UNFINISHED, LazySequence, RowLog, ShiftedRows, StoredRows, in_order

ROWS = [Response(id=f"row {number}", text="odd\u2028line\u0085ends\r\nand é" * number) for number in range(5)]
APPENDER = """
import os, signal, sys
from pathlib import Path
from tapir_exp.core.records import Response
from tapir_exp.core.stored_rows import RowLog
log = RowLog(Path(sys.argv[1]), Response)
for index in range(3):
    log[index] = Response(id=f"row {index}", text="x")
os.kill(os.getpid(), signal.SIGKILL)
"""


def open_log(directory: Path) -> RowLog[Response]:
    return RowLog(directory / UNFINISHED, Response)


def test_stored_rows_are_those_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    stored = StoredRows(tmp_path / "rows.jsonl", Response)
    assert list(stored) == ROWS
    assert [stored[index] for index in (3, 0, -1)] == [ROWS[3], ROWS[0], ROWS[-1]]
    assert (len(stored), stored[1:3]) == (5, ROWS[1:3])
    with pytest.raises(IndexError):
        stored[5]


def test_invalid_stored_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "text": "b"}\n{"id": "a"}\n')
    stored = StoredRows(tmp_path / "rows.jsonl", Response)
    for read in (lambda: list(stored), lambda: [stored[1]]):
        with pytest.raises(StoreError, match=r"rows\.jsonl, line 2: not a valid Response"):
            read()


def test_log_returns_rows_in_order_of_their_index(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        for index in (3, 0, 4, 1):
            log[index] = ROWS[index]
        assert (len(log), list(log), 2 in log, 9 in log) == (4, [0, 1, 3, 4], False, False)
        with pytest.raises(KeyError):
            log[2]
        log[2] = ROWS[2]
        assert list(in_order(log, 5)) == ROWS


def test_log_of_a_killed_process_keeps_every_row(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", APPENDER, str(tmp_path / UNFINISHED)], check=False)
    assert process.returncode == -signal.SIGKILL
    with open_log(tmp_path) as log:
        assert [row.id for row in in_order(log, len(log))] == ["row 0", "row 1", "row 2"]


@pytest.mark.parametrize(
    "tail",
    [
        b'5\t{"id": "cut',
        b'5\t{"id": "a", "text": "b"}',
        b'x\t{"id": "a", "text": "b"}\n',
        b"5\t{}\n",
        b"\0\0\0\n",
        b"\n",
    ],
    ids=["cut", "no end of line", "no index", "another type", "zeros", "empty"],
)
def test_damaged_end_of_a_log_is_cut_off(tmp_path: Path, tail: bytes) -> None:
    with open_log(tmp_path) as log:
        log[0], log[1] = ROWS[0], ROWS[1]
    whole = (tmp_path / UNFINISHED).read_bytes()
    (tmp_path / UNFINISHED).write_bytes(whole + tail + b'6\t{"id": "later", "text": "row"}\n')
    with open_log(tmp_path) as log:
        assert list(log) == [0, 1]
        assert (tmp_path / UNFINISHED).read_bytes() == whole
        log[2] = ROWS[2]
    with open_log(tmp_path) as log:
        assert list(in_order(log, 3)) == ROWS[:3]


def test_temporary_log_leaves_no_file(tmp_path: Path) -> None:
    with RowLog.temporary(tmp_path / "partial", Response) as log:
        log[1] = ROWS[1]
        assert log[1] == ROWS[1]
        assert list((tmp_path / "partial").iterdir()) == []


def test_shifted_rows_are_a_part_of_a_log() -> None:
    rows = {0: "a", 3: "b"}
    part = ShiftedRows(rows, 2)
    part[0] = "c"
    assert (dict(part), len(part), -2 in part, rows[2]) == ({1: "b", 0: "c"}, 2, False, "c")


def test_lazy_sequence_makes_items_on_access() -> None:
    made: list[int] = []
    squares = LazySequence(4, lambda index: made.append(index) or index**2)
    assert (squares[-1], squares[1:3], len(squares), made) == (9, [1, 4], 4, [3, 1, 2])
    assert list(squares) == [0, 1, 4, 9]


def test_finished_artifact_has_no_log(tmp_path: Path) -> None:
    """The log is there until the artifact is finished, and is no file of it."""

    def make(directory: Path) -> dict[str, int]:
        with open_log(directory) as log:
            log[0] = ROWS[0]
            return {"rows": write_rows(directory / "rows.jsonl", in_order(log, 1))}

    artifact = Store(tmp_path).produce("responses", {}, make)
    assert list(artifact.files) == ["rows.jsonl"]
    assert sorted(path.name for path in artifact.path.iterdir()) == ["artifact.json", "rows.jsonl"]
    assert list(artifact.stored_rows(Response)) == ROWS[:1]
