"""Rows of CSV: quotes, encodings and headers as they occur, and no row that is lost without a reason."""

import csv
from pathlib import Path
from typing import Any

import pytest

from tapir_exp.core.errors import SourceError
from tapir_exp.core.json_values import Unreadable
from tapir_exp.data import csv_rows
from tapir_exp.data.csv_rows import read_csv

ROWS = [{"instruction": "Grüße 你好", "n": "1.5"}, {"instruction": 'b\n"c", d', "n": "2.0"}]
QUOTES = "the quotes do not match"


def read(tmp_path: Path, content: str | bytes) -> list[tuple[Any, str]]:
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    rows = list(read_csv(path))
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    return [(row.fields, row.failure.partition(":")[0]) for row in rows]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_read_csv_gives_text(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding=encoding) as lines:
        writer = csv.DictWriter(lines, ["instruction", "n"], lineterminator=end)
        writer.writeheader()
        writer.writerows(ROWS)
    assert [row.fields for row in read_csv(path)] == ROWS


def test_row_of_wrong_length_is_marked(tmp_path: Path) -> None:
    wrong = (None, "not one field for every column")
    first, last = ({"a": "1", "b": "2"}, ""), ({"a": "7", "b": "8"}, "")
    assert read(tmp_path, "a,b\n1,2\n3\n4,5,6\n\n7,8\n") == [first, wrong, wrong, last]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('"x,1\ny,2\nz,3\n', [(None, QUOTES), ({"a": "y", "b": "2"}, ""), ({"a": "z", "b": "3"}, "")]),
        ('x,1\n"y" y,2\nz,3\n', [({"a": "x", "b": "1"}, ""), (None, QUOTES), ({"a": "z", "b": "3"}, "")]),
        ('"x \\"y\\"",1\nz,3', [(None, QUOTES), ({"a": "z", "b": "3"}, "")]),
        ('x "y",1\n', [({"a": 'x "y"', "b": "1"}, "")]),
        ('"x ""y""",1\n', [({"a": 'x "y"', "b": "1"}, "")]),
        ('x,"', [(None, QUOTES)]),
        ('"x\ny\nz",1\n', [({"a": "x\ny\nz", "b": "1"}, "")]),
        ("x\0,1\n", [({"a": "x\0", "b": "1"}, "")]),
    ],
)
def test_bad_quotes_cost_their_row_only(tmp_path: Path, text: str, rows: list[Any]) -> None:
    padding = "c" * 64  # a zero byte at the very start would be that of UTF-16
    expected = [({**fields, padding: ""}, "") if fields else (None, failure) for fields, failure in rows]
    lines = text.replace(",1\n", ",1,\n").replace(",2\n", ",2,\n").replace(",3", ",3,")
    assert read(tmp_path, f"a,b,{padding}\n{lines}") == expected


def test_rows_behind_many_open_quotes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "MAX_REREAD", 100)
    with pytest.raises(SourceError, match="in too many rows, the quotes do not match"):
        read(tmp_path, "a,b\n" + '"x,1\ny,2\n' * 50 + '"')


def test_bad_bytes_are_marked_at_their_position(tmp_path: Path) -> None:
    content = b'a,b\n"x ""y""",1\n' + "café,2\nz,3\n".encode("cp1252")
    (_, (bad, _), last) = read(tmp_path, content)
    assert isinstance(bad["a"], Unreadable)
    assert bad["a"].reason.startswith(f"not valid UTF-8: byte 0xe9 at position {content.index(0xE9)} of the file; ")
    assert "Windows-1252" in bad["a"].reason
    assert (bad["b"], last) == ("2", ({"a": "z", "b": "3"}, ""))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,café\n1,2\n".encode("cp1252"), "header: not valid UTF-8: byte 0xe9 at position 5"),
        ("a\ncafé\n".encode("utf-16"), r"probably UTF-16 by its byte-order mark.*iconv"),
        (b"a;b\n1;2\n", "separated by ';', expected ','"),
        (b"a\tb\n1\t2\n", r"separated by '\\t', expected ','"),
        (b"a,b,a\n1,2,3\n", r"the columns \['a'\] occur twice"),
        (b'"a,b\n1,2\n', "header: the quotes do not match"),
    ],
)
def test_file_without_a_usable_header_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=rf"rows\.csv cannot be read: .*{message}"):
        read(tmp_path, content)
