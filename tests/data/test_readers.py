"""Rows of every kind of file: what is read, which rows are marked, and which files are refused."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tapir_exp.core.errors import SourceError
from tapir_exp.core.json_rows import RawRow
from tapir_exp.data.readers import read_file, read_hub, sha256_source

ROWS = [{"instruction": "Grüße 你好", "n": 1.5}, {"instruction": "b\nc", "n": 2.0}]
LATIN = "Windows-1252 (Latin-1)"


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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_read_csv_gives_text(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding=encoding) as lines:
        writer = csv.DictWriter(lines, ["instruction", "n"])
        writer.writeheader()
        writer.writerows(ROWS)
    assert fields_of(rows_of(path)) == [{**row, "n": str(row["n"])} for row in ROWS]


def test_read_parquet_gives_typed_rows(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    many = [{"messages": [{"role": "user", "content": f"{n}"}]} for n in range(3000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(many), tmp_path / "rows.parquet")
    rows = rows_of(tmp_path / "rows.parquet")
    assert fields_of(rows) == many
    assert rows[-1].number == 3000


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
        (5, None, f"not valid UTF-8: byte 0xff at position 28 of the file; the encoding is probably {LATIN}"),
        (6, {"a": 2}, ""),
    ]


def test_list_row_that_is_not_an_object_is_marked(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path / "rows.json", '[{"a": 1}, 3, {"a": 2}]'))
    assert [(row.number, row.failure) for row in rows] == [(1, ""), (2, "not a JSON object: 3"), (3, "")]


def test_csv_row_of_wrong_length_is_marked(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path / "rows.csv", "a,b\n1,2\n3\n4,5,6\n7,8\n"))
    assert fields_of(rows) == [{"a": "1", "b": "2"}, None, None, {"a": "7", "b": "8"}]
    assert rows[1].failure == "not one field for every column"


def test_truncated_list_is_refused_after_the_last_row(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"rows\.json cannot be read beyond row 2"):
        rows_of(write(tmp_path / "rows.json", '[{"a": 1}, {"a": 2}, {"a"'))


def test_csv_in_another_encoding_is_refused_at_its_byte(tmp_path: Path) -> None:
    message = r"rows\.csv cannot be read: not valid UTF-8: byte 0xe9 at position 12 of the file; .*Windows-1252"
    with pytest.raises(SourceError, match=message):
        rows_of(write(tmp_path / "rows.csv", "a\ncoffee\ncafé\n".encode("cp1252")))
    with pytest.raises(SourceError, match=r"rows\.csv cannot be read: .*UTF-16"):
        rows_of(write(tmp_path / "rows.csv", "a\ncafé\n".encode("utf-16")))


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="it holds no rows"):
        read_file(write(tmp_path / name, ""))


def test_invalid_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"rows\.parquet cannot be read"):
        rows_of(write(tmp_path / "rows.parquet", "no parquet"))


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"name ends in '\.txt'; expected one of \.json, \.jsonl, \.csv, \.parquet"):
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

    def load_dataset(name: str, **options: Any) -> list[dict[str, Any]]:
        calls.append((name, options))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert fields_of(list(read_hub("tatsu-lab/alpaca", "train"))) == ROWS
    assert fields_of(list(read_hub("a/script", "eval", "hf://a.json"))) == ROWS
    assert calls == [
        ("tatsu-lab/alpaca", {"split": "train"}),
        ("json", {"data_files": "hf://a.json", "split": "train"}),
    ]
