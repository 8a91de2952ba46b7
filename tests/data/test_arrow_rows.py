"""Rows of Parquet, Arrow and hub datasets: nested columns, NaN, and values that Python cannot hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tapir_exp.core.errors import SourceError
from tapir_exp.core.json_values import Unreadable
from tapir_exp.data.arrow_rows import read_arrow, read_parquet
from tapir_exp.data.formats import parse_pair

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
TURN = pa.struct({"role": pa.string(), "content": pa.string()})


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def write_file(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("write", "read"), [(pq.write_table, read_parquet), (write_stream, read_arrow), (write_file, read_arrow)]
)
def test_rows_are_numbered_over_all_batches(
    tmp_path: Path, write: Callable[..., Any], read: Callable[..., Any]
) -> None:
    many = [{"messages": [{"role": "user", "content": f"{n}"}], "x": None} for n in range(3000)]
    write(pa.Table.from_pylist(many), tmp_path / "rows")
    rows = list(read(tmp_path / "rows"))
    assert [row.fields for row in rows] == many
    assert [row.number for row in rows] == list(range(1, 3001))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([TURNS], pa.list_(TURN)),
        pa.array([TURNS], pa.large_list(TURN)),
        pa.array([TURNS], pa.list_(TURN, 2)),
        pa.array([[list(turn.items()) for turn in TURNS]], pa.list_(pa.map_(pa.string(), pa.string()))),
        pa.array([{"role": ["user", "assistant"], "content": ["a", "b"]}]),
        pa.array([[{**turn, "tool_calls": None, "weight": float("nan")} for turn in TURNS]]),
    ],
)
def test_chat_is_read_from_any_nested_type(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"messages": column}), tmp_path / "rows.parquet")
    (row,) = read_parquet(tmp_path / "rows.parquet")
    assert row.fields is not None
    pair = parse_pair(row.fields, 1)
    assert (pair.instruction, pair.response) == ("a", "b")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**62], pa.timestamp("s")),
        pa.array([1], pa.timestamp("ns", "No/Where")),
        pa.array([b"\xff"], pa.binary()).view(pa.string()),
        pa.array([[b"\xff"]], pa.list_(pa.binary())).cast(pa.list_(pa.binary())),
        pa.array([float("inf")]),
        pa.array(["x"]).dictionary_encode(),
        pa.array([10**37], pa.decimal128(38)),
    ],
)
def test_column_that_nobody_asks_for_may_hold_anything(tmp_path: Path, column: pa.Array) -> None:
    write_file(pa.table({"meta": column, "instruction": ["a"], "output": ["b"]}), tmp_path / "rows.arrow")
    (row,) = read_arrow(tmp_path / "rows.arrow")
    assert row.fields is not None
    assert parse_pair(row.fields, 1).response == "b"


def test_text_that_is_not_utf8_is_marked_in_its_row(tmp_path: Path) -> None:
    column = pa.array([b"good", b"caf\xe9"], pa.binary()).view(pa.string())
    write_file(pa.table({"output": column}), tmp_path / "rows.arrow")
    first, second = read_arrow(tmp_path / "rows.arrow")
    assert first.fields == {"output": "good"}
    assert second.fields == {"output": Unreadable("not valid UTF-8: byte 0xe9 at position 3 of it")}


@pytest.mark.parametrize("read", [read_parquet, read_arrow])
@pytest.mark.parametrize("content", [b"", b"no table", b"ARROW1\0\0" + b"x" * 20, b"PAR1" + b"x" * 20 + b"PAR1"])
def test_damaged_file_is_refused(tmp_path: Path, read: Callable[..., Any], content: bytes) -> None:
    (tmp_path / "rows").write_bytes(content)
    with pytest.raises(SourceError, match="rows cannot be read"):
        list(read(tmp_path / "rows"))
