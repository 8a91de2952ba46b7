"""Rows of every kind of file: what is read, which rows are marked, and which files are refused."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tapir_exp.core.errors import SourceError
from tapir_exp.core.json_rows import RawRow
from tapir_exp.core.json_values import Unreadable
from tapir_exp.data.readers import read_file, read_hub, sha256_source

ROWS = [{"instruction": "Grüße 你好", "n": 1.5}, {"instruction": "b\nc", "n": 2.0}]
LATIN = "the encoding is probably Windows-1252 (Latin-1)"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows_of(path: Path) -> list[RawRow]:
    return list(read_file(path))


def fields_of(rows: Sequence[RawRow]) -> list[Any]:
    return [row.fields for row in rows]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.json", json.dumps(ROWS)),
        ("list.jsonl", " \n" + json.dumps(ROWS, indent=1)),
        ("lines.json", "".join(json.dumps(row) + "\n" for row in ROWS)),
        ("lines.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in ROWS)),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_read_file_reads_list_and_lines_alike(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    """Neither the suffix nor a byte-order mark decides what is read."""
    rows = rows_of(write(tmp_path / name, text.encode(encoding)))
    assert fields_of(rows) == ROWS
    assert [row.number for row in rows] == [1, 2]


@pytest.mark.parametrize("name", ["lines.jsonl", "list.json", "frame.parquet"])
def test_nan_is_read_as_null(tmp_path: Path, name: str) -> None:
    """Pandas writes an empty column as NaN: bare in JSON, as a float in Parquet."""
    path, row = tmp_path / name, {"instruction": "a", "input": float("nan"), "n": 1.5}
    if name == "frame.parquet":
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    else:
        write(path, json.dumps([row] if name == "list.json" else row))
    assert fields_of(rows_of(path)) == [{"instruction": "a", "input": None, "n": 1.5}]


def test_bad_line_keeps_number_and_gets_reason(tmp_path: Path) -> None:
    lines = [b'{"a": 1}', b'{"a": ', b"", b"[1]", b'{"a": "\xff"}', b'{"a": 2}']
    rows = rows_of(write(tmp_path / "rows.jsonl", b"\n".join(lines)))
    assert [(row.number, row.fields, row.failure) for row in rows] == [
        (1, {"a": 1}, ""),
        (2, None, "not valid JSON: Expecting value at column 6"),
        (4, None, "not a JSON object: [1]"),
        (5, {"a": Unreadable(f"not valid UTF-8: byte 0xff at position 28 of the file; {LATIN}")}, ""),
        (6, {"a": 2}, ""),
    ]


def test_list_row_that_is_not_an_object_is_marked(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path / "rows.json", '[{"a": 1}, 3, {"a": 2}]'))
    assert [(row.number, row.failure) for row in rows] == [(1, ""), (2, "not a JSON object: 3"), (3, "")]


def test_truncated_list_is_refused_after_the_last_row(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"rows\.json cannot be read beyond row 2"):
        rows_of(write(tmp_path / "rows.json", '[{"a": 1}, {"a": 2}, {"a"'))


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="it holds no rows"):
        read_file(write(tmp_path / name, ""))


def test_invalid_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"rows\.parquet cannot be read"):
        rows_of(write(tmp_path / "rows.parquet", "no parquet"))


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"name ends in '\.txt'; expected one of \.json, \.jsonl, \.csv, \.parquet, \.arrow"
    ):
        read_file(write(tmp_path / "rows.txt", "a"))


def test_missing_file_is_refused() -> None:
    for read in (read_file, sha256_source):
        with pytest.raises(SourceError, match=r"There is no file no/such\.json"):
            read(Path("no/such.json"))


def test_unavailable_hub_dataset_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="The hub dataset no/such cannot be loaded"):
        read_hub("no/such", "train")


def test_read_hub_passes_name_and_split_or_files(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    calls: list[tuple[Any, ...]] = []

    def load_dataset(name: str, **options: Any) -> datasets.Dataset:
        calls.append((name, options))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert fields_of(list(read_hub("tatsu-lab/alpaca", "train"))) == ROWS
    assert fields_of(list(read_hub("a/script", "eval", "hf://a.json"))) == ROWS
    assert calls == [
        ("tatsu-lab/alpaca", {"split": "train"}),
        ("json", {"data_files": "hf://a.json", "split": "train"}),
    ]
