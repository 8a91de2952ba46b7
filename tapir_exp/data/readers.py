"""Rows of JSON, JSON lines, CSV, parquet and hub datasets: one at a time, so that a pool may be larger than memory."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import file_digest
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from tapir_exp.core.errors import SourceError

BATCH = 1024
"""Rows of a parquet file in memory at once."""
LONGEST_FIELD = 2**24
"""Characters that one field of a CSV file may have."""


@dataclass(frozen=True)
class RawRow:
    """A row as it was found; `fields` is None where it could not be read, and `failure` says why.

    number: its place in the source, from 1; in JSON lines that of its line.
    """

    number: int
    fields: Mapping[str, Any] | None
    failure: str = ""


def read_file(path: Path) -> Iterator[RawRow]:
    """The rows of a file, read by its ending. Raises SourceError where there is no such file or it cannot be read."""
    readers: dict[str, Callable[[Path], Iterator[RawRow]]] = {
        ".json": _read_json,
        ".jsonl": _read_json,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    _refuse_absent(path)
    if path.suffix not in readers:
        raise SourceError(f"{path} cannot be read: its name must end in one of {', '.join(readers)}.")
    return _unless_empty(readers[path.suffix](path), path)


def read_hub(name: str, split: str, files: str | None = None) -> Iterator[RawRow]:
    """The rows of a hub dataset, which stays on disk.

    files: address of its data, for a dataset that is a script. Raises SourceError where it cannot be had.
    """
    from datasets import load_dataset  # 1.4 s to import, and nothing else needs it

    try:
        rows = load_dataset("json", data_files=files, split="train") if files else load_dataset(name, split=split)
    except Exception as error:  # of a dozen kinds
        raise SourceError(f"The hub dataset {name} cannot be had: {error.__cause__ or repr(error)}") from error
    return _numbered(rows)


def sha256_source(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises SourceError where there is no such file."""
    _refuse_absent(path)
    with path.open("rb") as content:
        return file_digest(content, "sha256").hexdigest()


def _refuse_absent(path: Path) -> None:
    if not path.is_file():
        raise SourceError(f"There is no file {path}.")


def _unless_empty(rows: Iterator[RawRow], path: Path) -> Iterator[RawRow]:
    """The rows, once there is at least one."""
    first = next(rows, None)
    if first is None:
        raise SourceError(f"{path} cannot be read: it holds no rows.")
    return chain([first], rows)


def _numbered(rows: Iterable[Any]) -> Iterator[RawRow]:
    return (_checked(number, row) for number, row in enumerate(rows, 1))


def _checked(number: int, row: object) -> RawRow:
    return RawRow(number, row) if isinstance(row, dict) else RawRow(number, None, "it is no object")


def _read_json(path: Path) -> Iterator[RawRow]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as text:
        start = text.read(1)
        while start.isspace():
            start = text.read(1)
        text.seek(0)
        yield from _read_list(path) if start == "[" else _read_lines(text)


def _read_list(path: Path) -> Iterator[RawRow]:
    import ijson

    number = 0
    with path.open("rb") as content:
        try:
            for number, row in enumerate(ijson.items(content, "item", use_float=True), 1):
                yield _checked(number, row)
        except ijson.JSONError as error:
            raise SourceError(f"{path} cannot be read beyond row {number}: {error}") from error


def _read_lines(lines: TextIO) -> Iterator[RawRow]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _read_line(number, line)


def _read_line(number: int, line: str) -> RawRow:
    try:
        line.encode()  # a byte that is no UTF-8 was read as a lone surrogate
        row = json.loads(line)
    except UnicodeEncodeError:
        return RawRow(number, None, "it is no UTF-8")
    except ValueError:
        return RawRow(number, None, "it is no JSON")
    return _checked(number, row)


def _read_csv(path: Path) -> Iterator[RawRow]:
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        try:
            for number, row in enumerate(csv.DictReader(lines), 1):
                whole = None not in row and None not in row.values()
                yield RawRow(number, row) if whole else RawRow(number, None, "it has not one field for every column")
        except (csv.Error, UnicodeDecodeError) as error:
            raise SourceError(f"{path} cannot be read: {error}") from error


def _read_parquet(path: Path) -> Iterator[RawRow]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as table:
            yield from _numbered(row for batch in table.iter_batches(BATCH) for row in batch.to_pylist())
    except ArrowException as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
