"""Rows of every kind of file, one at a time: what is read, what is marked unreadable, and what is refused."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tapir_exp.core.errors import SourceError
from tapir_exp.data.readers import RawRow, read_file, read_hub, sha256_source

ROWS = [{"instruction": "Grüße 你好", "n": 1.5}, {"instruction": "b\nc", "n": 2.0}]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def rows_of(path: Path) -> list[RawRow]:
    return list(read_file(path))


def found(rows: Sequence[RawRow]) -> list[Any]:
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
def test_a_list_and_lines_hold_the_same_rows_whatever_the_ending(tmp_path: Path, name: str, text: str) -> None:
    rows = rows_of(write(tmp_path / name, text))
    assert found(rows) == ROWS
    assert [row.number for row in rows] == [1, 2]


def test_csv_has_rows_of_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, ["instruction", "n"])
        writer.writeheader()
        writer.writerows(ROWS)
    assert found(rows_of(path)) == [{**row, "n": str(row["n"])} for row in ROWS]


def test_parquet_has_typed_rows(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    many = [{"messages": [{"role": "user", "content": f"{n}"}]} for n in range(3000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(many), tmp_path / "rows.parquet")
    rows = rows_of(tmp_path / "rows.parquet")
    assert found(rows) == many
    assert rows[-1].number == 3000


def test_a_bad_line_is_a_row_with_its_number_and_reason(tmp_path: Path) -> None:
    lines = [b'{"a": 1}', b'{"a": ', b"", b"[1]", b'{"a": "\xff"}', b'{"a": 2}']
    rows = rows_of(write(tmp_path / "rows.jsonl", b"\n".join(lines)))
    assert [(row.number, row.fields, row.failure) for row in rows] == [
        (1, {"a": 1}, ""),
        (2, None, "it is no JSON"),
        (4, None, "it is no object"),
        (5, None, "it is no UTF-8"),
        (6, {"a": 2}, ""),
    ]


def test_a_row_of_a_list_that_is_no_object_is_marked(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path / "rows.json", '[{"a": 1}, 3, {"a": 2}]'))
    assert [(row.number, row.failure) for row in rows] == [(1, ""), (2, "it is no object"), (3, "")]


def test_a_csv_row_with_too_few_or_many_fields_is_marked(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path / "rows.csv", "a,b\n1,2\n3\n4,5,6\n7,8\n"))
    assert found(rows) == [{"a": "1", "b": "2"}, None, None, {"a": "7", "b": "8"}]
    assert rows[1].failure == "it has not one field for every column"


def test_a_list_that_is_cut_is_refused_with_the_last_good_row(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"rows\.json cannot be read beyond row 2"):
        rows_of(write(tmp_path / "rows.json", '[{"a": 1}, {"a": 2}, {"a"'))


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="it holds no rows"):
        read_file(write(tmp_path / name, ""))


def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"rows\.parquet cannot be read"):
        rows_of(write(tmp_path / "rows.parquet", "no parquet"))


def test_an_ending_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"must end in one of \.json, \.jsonl, \.csv, \.parquet"):
        read_file(write(tmp_path / "rows.txt", "a"))


def test_a_file_that_is_not_there_is_refused() -> None:
    for read in (read_file, sha256_source):
        with pytest.raises(SourceError, match=r"There is no file no/such\.json"):
            read(Path("no/such.json"))


def test_a_hub_dataset_that_cannot_be_had_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="The hub dataset no/such cannot be had"):
        read_hub("no/such", "train")


def test_a_hub_dataset_is_asked_for_by_name_and_split_or_by_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, **how: Any) -> list[dict[str, Any]]:
        asked.append((name, how))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert found(list(read_hub("tatsu-lab/alpaca", "train"))) == ROWS
    assert found(list(read_hub("a/script", "eval", "hf://a.json"))) == ROWS
    assert asked == [
        ("tatsu-lab/alpaca", {"split": "train"}),
        ("json", {"data_files": "hf://a.json", "split": "train"}),
    ]
