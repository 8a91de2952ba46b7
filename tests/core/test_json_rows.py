"""Rows of JSON lists and JSON lines: what is read, which rows are marked with a reason, and which files are refused."""

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.core import json_rows
from tapir_exp.core.encodings import find_invalid_utf8, guess_encoding
from tapir_exp.core.errors import EvaluationError, SourceError
from tapir_exp.core.json_rows import RawRow, read_json_objects, read_json_rows, validate_row
from tapir_exp.core.json_values import MAX_DEPTH, TOO_DEEP, Unreadable, contains_unreadable
from tapir_exp.core.records import Record

ROWS = [
    {"instruction": "Grüße 你好", "n": 1.5},
    {"instruction": "b\nc\u2028d", "n": 2},
    {"nested": {"a": [None, True]}},
]
BOM = b"\xef\xbb\xbf"
INVALID = "not valid UTF-8: byte {:#x} at position {} of the file; the encoding is probably Windows-1252 (Latin-1)"
SURROGATE = Unreadable(r"text that UTF-8 cannot hold: the lone surrogate \ud83d")

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text(max_size=5), values, max_size=3)


def write(tmp_path: Path, content: str | bytes, name: str = "rows.json") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(tmp_path: Path, content: str | bytes) -> list[RawRow]:
    return list(read_json_rows(write(tmp_path, content)))


def failures(rows: Sequence[RawRow]) -> list[tuple[int, str]]:
    return [(row.number, row.failure) for row in rows]


@pytest.mark.parametrize("mark", [b"", BOM, BOM * 2])
@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        " \n" + json.dumps(ROWS, indent=1, ensure_ascii=False) + "\n ",
        "".join(json.dumps(row) + "\n" for row in ROWS),
        "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in ROWS),
        "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
    ],
)
def test_read_list_and_lines_give_same_rows(tmp_path: Path, text: str, mark: bytes) -> None:
    rows = read(tmp_path, mark + text.encode())
    assert [row.fields for row in rows] == ROWS
    assert failures(rows) == [(1, ""), (2, ""), (3, "")]


@given(st.lists(objects, max_size=6), st.integers(1, 40), st.sampled_from([None, 2]), st.booleans())
def test_read_list_is_independent_of_chunk_size(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], chunk: int, indent: int | None, escape: bool
) -> None:
    """Values, numbers and characters that two chunks share are read as if the file were in memory."""
    path = write(tmp_path_factory.mktemp("rows"), json.dumps(rows, indent=indent, ensure_ascii=escape))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "CHUNK", chunk)
        assert [row.fields for row in read_json_rows(path)] == rows


@pytest.mark.parametrize("content", ["", " \n", "[]", " [ ] ", BOM])
def test_read_without_rows_yields_nothing(tmp_path: Path, content: str | bytes) -> None:
    assert read(tmp_path, content) == []


def test_read_lines_keeps_line_numbers(tmp_path: Path) -> None:
    assert failures(read(tmp_path, '{"a": 1}\n\n  \n{"a": 2}\n')) == [(1, ""), (4, "")]


def test_read_lines_marks_each_bad_row(tmp_path: Path) -> None:
    lines = [b'{"a": 1}', b'{"a": ', b"", b"[1]", b'{"a": "caf\xe9"}', rb'{"a": "\ud83d"}', b'{"a": 2}', b"{} {}"]
    rows = read(tmp_path, b"\n".join(lines))
    assert [(row.number, row.fields) for row in rows] == [
        (1, {"a": 1}),
        (2, None),
        (4, None),
        (5, {"a": Unreadable(INVALID.format(0xE9, 31))}),
        (6, {"a": SURROGATE}),
        (7, {"a": 2}),
        (8, None),
    ]
    assert [row.failure for row in rows if row.fields is None] == [
        "not valid JSON: Expecting value at column 6",
        "not a JSON object: [1]",
        "not valid JSON: Extra data at column 4",
    ]
    assert b"\n".join(lines)[31] == 0xE9


def test_read_list_marks_each_bad_row(tmp_path: Path) -> None:
    content = b'[{"a": 1}, 3, {"a": "caf\xe9"}, {"a": "\\ud83d"}, {"\xff": 1}, {"a": "\\ud83d\\ude00"}]'
    rows = read(tmp_path, content)
    assert failures(rows) == [(1, ""), (2, "not a JSON object: 3"), (3, ""), (4, ""), (5, ""), (6, "")]
    assert [row.fields for row in rows[2:]] == [
        {"a": Unreadable(INVALID.format(0xE9, content.index(0xE9)))},
        {"a": SURROGATE},
        {r"\udcff": 1},
        {"a": "😀"},
    ]


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_invalid_byte_position_holds_in_any_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(json_rows, "CHUNK", chunk)
    content = BOM + '[{"a": "你好"}, {"a": "Grüße"}, {"b": "'.encode() + b'\xe9"}, {"c": "\xc3\xa9"}]'
    rows = read(tmp_path, content)
    assert [row.fields for row in rows if row.fields] == [
        {"a": "你好"},
        {"a": "Grüße"},
        {"b": Unreadable(INVALID.format(0xE9, content.index(b'\xe9"')))},
        {"c": "é"},
    ]


@pytest.mark.parametrize("form", ["[{}]", "{}\n"])
def test_nan_and_infinity_are_null(tmp_path: Path, form: str) -> None:
    (row,) = read(tmp_path, form.replace("{}", '{"a": NaN, "b": -Infinity, "c": [NaN]}'))
    assert row.fields == {"a": None, "b": None, "c": [None]}


def test_read_lines_accepts_marks_of_joined_files(tmp_path: Path) -> None:
    rows = read(tmp_path, BOM + b'{"a": 1}\n' + BOM + b'{"a": 2}\n')
    assert [row.fields for row in rows] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1}, {"a": 2}, {"a"', r"beyond row 2: Expecting ':' delimiter \(byte 25 of the file\)"),
        ('[{"a": 1}, {"a": 2}, {"a": "b', r"beyond row 2: Unterminated string starting at \(byte 27 of the file\)"),
        ('[{"a": 1} {"a": 2}]', r"beyond row 1: expected ',', got '\{' \(byte 10 of the file\)"),
        ('[{"a": 1}, ]', r"beyond row 1: Expecting value \(byte 11 of the file\)"),
        ('[{"a": 1}', "beyond row 1: it ends without ','"),
        ("[", r"beyond row 0: Expecting value"),
        ('[{"a": 1}]\n{"a": 2}', "beyond row 1: there is text after the list"),
        ('[{"a": wrong}, ' + '{"a": 1}, ' * 500 + "]", r"beyond row 0: Expecting value \(byte 7 of the file\)"),
    ],
)
def test_list_with_syntax_error_is_refused_at_its_byte(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(SourceError, match=rf"rows\.json cannot be read {message}"):
        read(tmp_path, content)


def deep(levels: int, inner: str = "1") -> str:
    return '{"x": [' * (levels // 2) + inner + "]}" * (levels // 2)


@pytest.mark.parametrize("form", ["[{}]", "{}\n", " [ {} , {} ] "])
@pytest.mark.parametrize("chunk", [64, 1 << 20])
def test_odd_values_cost_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, chunk: int) -> None:
    monkeypatch.setattr(json_rows, "CHUNK", chunk)
    values = ["1" * 30, "1" * 5000, "[" * 5000 + "]" * 5000, deep(100_000), deep(600, r'"\ud83d"'), r'"]}\"[{"']
    text = "{" + ", ".join(f'"{number}": {value}' for number, value in enumerate(values)) + "}"
    for row in read(tmp_path, form.replace("{}", text)):
        fields = dict(row.fields or {})
        for cut in (fields.pop("2"), fields.pop("3"), fields.pop("4")):
            assert contains_unreadable(cut)
        assert fields == {"0": int("1" * 30), "1": Unreadable("an integer of 5000 digits"), "5": ']}"[{'}


def test_nesting_is_cut_below_the_limit(tmp_path: Path) -> None:
    kept, cut = ("[" * n + "[1, [], {}]" + "]" * n for n in (MAX_DEPTH - 3, MAX_DEPTH - 1))
    fields = [row.fields for row in read(tmp_path, f'{{"a": {kept}}}\n{{"a": {cut}}}')]
    assert fields[0] == json.loads(f'{{"a": {kept}}}')
    assert fields[1] is not None
    value = fields[1]["a"]
    for _ in range(MAX_DEPTH - 1):
        (value,) = value
    assert value == TOO_DEEP


@pytest.mark.parametrize(
    ("content", "failure"),
    [
        ("[" * 20_000, "not valid JSON: it ends within a value"),
        ('{"a": ' + "[" * 20_000, "not valid JSON: it ends within a value"),
        ('{"a": ' * 20_000, "not valid JSON: it ends within a value"),
    ],
)
def test_unclosed_deep_nesting_is_refused(tmp_path: Path, content: str, failure: str) -> None:
    tracemalloc.start()
    try:
        if content.startswith("{"):
            assert [row.failure for row in read(tmp_path, content)] == [failure]
        with pytest.raises(SourceError, match="cannot be read beyond row 0: it ends within a value"):
            read(tmp_path, f"[{content}")
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be opened: File name too long"):
        next(read_json_rows(tmp_path / ("x" * 300)))


class Named(Record):
    """A record for the tests below."""

    id: str
    task: str


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": "1", "task": "Math", "y": Unreadable("bad: x")}, None),
        ({"id": Unreadable("bad: x"), "task": "Math"}, r"^f, row 1: id is bad: x\.$"),
        ({"id": ["é" * 200], "task": "Math"}, r"row 1 is no Named: id: .*valid string, got \['.{78}\.$"),
        ({"task": "Math"}, r"f, row 1 is no Named: id: Field required\.$"),
    ],
)
def test_validate_row_names_row_and_column(fields: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert validate_row(Named, fields, EvaluationError, "f, row 1").id == "1"
        return
    with pytest.raises(EvaluationError, match=message) as caught:
        validate_row(Named, fields, EvaluationError, "f, row 1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("utf-32-le", "UTF-32"),
        ("utf-32-be", "UTF-32"),
    ],
)
def test_wide_encodings_are_refused_by_name(tmp_path: Path, encoding: str, name: str) -> None:
    message = rf"rows\.json cannot be read: not valid UTF-8: byte 0x.. at position . of the file; .*iconv -f {name} "
    with pytest.raises(SourceError, match=message):
        read(tmp_path, json.dumps(ROWS).encode(encoding))


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        ("Er aß Käse in Österreich".encode("cp1252"), "Windows-1252 (Latin-1)"),
        ("写一首关于春天的诗".encode("gb18030"), "GB18030"),
        ("写一首关于春天的诗".encode()[:-1], "UTF-8 with damaged bytes"),
        ("Grüße, schöne Größe".encode().replace(b"\xb6", b"", 1), "UTF-8 with damaged bytes"),
        (b"\x81", "unknown"),
    ],
)
def test_guess_encoding_names_the_likely_one(data: bytes, encoding: str) -> None:
    assert guess_encoding(data) == encoding


def test_find_invalid_utf8_gives_position_in_file(tmp_path: Path) -> None:
    assert find_invalid_utf8(write(tmp_path, "ä\nb\n")) is None
    message = find_invalid_utf8(write(tmp_path, b"\xc3\xa4\nb\xff\n"))
    assert message is not None
    assert message.startswith("not valid UTF-8: byte 0xff at position 4 of the file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n[2]', r"rows\.json, row 2: not a JSON object: \[2\]\.$"),
        (b'{"a": 1}\n{"a": \xe9}', r"rows\.json, row 2: not valid UTF-8: byte 0xe9 at position 15 .*Latin-1\)\.$"),
        (b'[{"a": 1}', r"rows\.json cannot be read beyond row 1"),
        (json.dumps(ROWS).encode("utf-16"), r"rows\.json cannot be read: not valid UTF-8.*UTF-16"),
    ],
)
def test_read_objects_raises_the_callers_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(EvaluationError, match=message) as caught:
        list(read_json_objects(path, EvaluationError))
    assert "\n" not in str(caught.value)


def test_missing_file_raises_the_callers_error() -> None:
    with pytest.raises(SourceError, match=r"There is no file no/such\.json\."):
        next(read_json_rows(Path("no/such.json")))
    with pytest.raises(EvaluationError, match=r"There is no file no/such\.json\."):
        next(read_json_objects(Path("no/such.json"), EvaluationError))


@pytest.mark.parametrize("form", ["list", "lines"])
def test_read_holds_few_rows_in_memory(tmp_path: Path, form: str) -> None:
    path, row = tmp_path / "rows.json", json.dumps({"instruction": "word " * 200})
    with path.open("w") as file:
        file.write("[" + ",\n".join([row] * 20_000) + "]" if form == "list" else f"{row}\n" * 20_000)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_json_rows(path)) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 20e6
    assert peak < 8e6
