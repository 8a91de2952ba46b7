"""Read rows of CSV files as RFC 4180 defines them, and mark each row whose quotes do not match."""

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tapir_exp.core.encodings import BYTE_ORDER_MARK, describe_invalid_utf8, refuse_utf16
from tapir_exp.core.errors import SourceError
from tapir_exp.core.json_rows import RawRow
from tapir_exp.core.json_values import Unreadable, first_surrogate

LONGEST_FIELD = 2**24
"""Characters that one field may have; the default of 128 kB is too small for long responses."""
MAX_REREAD = 2**28
"""Bytes that may be read a second time because of quotes that are never closed."""


@dataclass(frozen=True)
class _Record:
    """Fields of a row, or the reason why it has none.

    Attributes:
        fields: the fields; empty if the row cannot be read.
        failure: the reason why it has none; empty if it has.
        invalid: description of its first byte that is not UTF-8; empty if all are.
    """

    fields: list[str]
    failure: str = ""
    invalid: str = ""


class _Lines:
    """Lines of an open file, from which a record can be read again.

    Attributes:
        start: position of the record's first line in the file, in bytes.
        lines: lines of the record that were read so far; a byte that is not UTF-8 is a lone surrogate.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.start = 0
        self.lines: list[str] = []

    def __iter__(self) -> Iterator[str]:
        """Yield the lines from `start` on."""
        self._file.seek(self.start)
        self.lines = []
        while line := self._file.readline():
            self.lines.append(line)
            yield line

    def raw(self) -> bytes:
        """Return the bytes of the record."""
        return "".join(self.lines).encode(errors="surrogateescape")

    def move_on(self, count: int | None = None) -> None:
        """Go to the next record, behind the first `count` lines of this one; None: behind all."""
        self.start += sum(len(line.encode(errors="surrogateescape")) for line in self.lines[:count])
        self.lines = []


def read_csv(path: Path) -> Iterator[RawRow]:
    """Yield the rows of a CSV file with a header.

    A row with a stray or unclosed quote is marked, and reading goes on at its second line.

    Args:
        path: the file, in UTF-8.

    Raises:
        SourceError: the file is in UTF-16 or UTF-32, its header is no header, or too many quotes are unclosed.
    """
    refuse_utf16(path)
    csv.field_size_limit(LONGEST_FIELD)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        records = _read_records(_Lines(file), path)
        header = next(records, None)
        if header is not None:
            columns = _check_header(header, path)
            for number, record in enumerate(records, 1):
                yield _to_row(number, record, columns)


def _check_header(header: _Record, path: Path) -> list[str]:
    columns = [column.lstrip(BYTE_ORDER_MARK).strip() for column in header.fields]
    repeated = sorted(name for name, count in Counter(columns).items() if count > 1 and name)
    problem = header.failure or header.invalid
    if repeated:
        problem = f"the columns {repeated} occur twice"
    elif len(columns) == 1 and (mark := next((mark for mark in ";\t|" if mark in columns[0]), "")):
        problem = f"its fields are separated by {mark!r}, expected ','"
    if problem:
        raise SourceError(f"{path} cannot be read: its header: {problem}.")
    return columns


def _to_row(number: int, record: _Record, columns: list[str]) -> RawRow:
    if record.failure:
        return RawRow(number, None, record.failure)
    if len(record.fields) != len(columns):
        return RawRow(number, None, "not one field for every column")
    fields: dict[str, Any] = dict(zip(columns, record.fields, strict=True))
    if record.invalid:
        fields |= {name: Unreadable(record.invalid) for name, text in fields.items() if first_surrogate(text)}
    return RawRow(number, fields)


def _read_records(lines: _Lines, path: Path) -> Iterator[_Record]:
    """Yield the records of a file, and mark those that are not valid CSV."""
    reread = 0
    while True:
        try:
            for fields in csv.reader(lines, strict=True):
                if fields:  # as csv.DictReader does, skip empty lines
                    invalid = first_surrogate("".join(fields)) and describe_invalid_utf8(lines.raw(), lines.start)
                    yield _Record(fields, invalid=invalid)
                lines.move_on()
            return
        except csv.Error as error:
            failure = f"the quotes do not match: {error}"
        # An unclosed quote takes all that follows into one field. These rows are read again.
        reread += len(lines.raw())
        if reread > MAX_REREAD:
            raise SourceError(f"{path} cannot be read: in too many rows, {failure}. Write a quote within quotes twice.")
        lines.move_on(1)
        yield _Record([], failure)
