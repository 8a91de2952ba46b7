"""Read rows from JSON lists and JSON lines, one at a time.

This is the only reader of JSON rows that come from outside: seed instructions, pools, labelled data, benchmark files
and evaluation results. It accepts a UTF-8 byte-order mark and reads NaN and Infinity as null: pandas writes
NaN into an empty cell.

A bad row keeps its number and gets a reason, and the rows after it are still read. A bad value becomes an `Unreadable`
at its place, so that the row is lost only if the value is read. A list is parsed by the standard library's decoder over
a growing buffer. Another parser, ijson, streams as well. But it stops at NaN and at the first invalid byte, and it
replaces a lone surrogate without a warning.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import ValidationError

from tapir_exp.core.encodings import BYTE_ORDER_MARK, describe_invalid_utf8, refuse_missing, refuse_utf16
from tapir_exp.core.errors import SourceError, TapirError
from tapir_exp.core.json_values import Incomplete, Unreadable, decode_value, first_surrogate, mark_unreadable
from tapir_exp.core.records import Record

CHUNK = 1 << 20
"""Bytes of a list that are read at a time."""
CUT_MARGIN = 1024
"""Characters at the end of the buffer within which a syntax error may only mean that a value is cut off."""

R = TypeVar("R", bound=Record)
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class RawRow:
    """A row of a source as it was read.

    Attributes:
        number: position in the source, from 1; in JSON lines, the number of the line.
        fields: the columns by name; None if the row cannot be read.
        failure: the reason why the row cannot be read, as "kind" or "kind: detail".
    """

    number: int
    fields: Mapping[str, Any] | None
    failure: str = ""


def read_json_rows(path: Path) -> Iterator[RawRow]:
    """Yield the rows of a JSON list or of JSON lines.

    The first character determines the format: a list starts with `[`. Memory use is that of the largest row.

    Args:
        path: the file, of any suffix.

    Raises:
        SourceError: the file is missing, is in UTF-16 or UTF-32, or is a list with a syntax error.
    """
    refuse_missing(path)
    refuse_utf16(path)
    with path.open("rb") as content:
        start = 0
        while content.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:  # editors may write several
            start = content.tell()
        content.seek(start)
        first = content.read(1)
        while first.isspace():
            first = content.read(1)
        content.seek(start)
        yield from _read_list(content, path) if first == b"[" else _read_lines(content)


def read_json_objects(path: Path, error: type[TapirError] = SourceError) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a JSON list or of JSON lines, and stop at the first bad row, as `read_whole_rows` does."""
    return (fields for _, fields in read_whole_rows(path, error))


def read_whole_rows(path: Path, error: type[TapirError] = SourceError) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the objects of a JSON list or of JSON lines, each after the name of its row for messages.

    Args:
        path: the file, of any suffix.
        error: class of the exception to raise, that of the caller's domain.

    Raises:
        TapirError: of class `error`; the file or one of its rows cannot be read. The message names both.
    """
    try:
        for row in read_json_rows(path):
            name = f"{path}, row {row.number}"
            if row.fields is None:
                raise error(f"{name}: {row.failure}.")
            yield name, row.fields
    except SourceError as failure:
        raise error(str(failure)) from failure


def validate_row(record: type[R], fields: Mapping[str, Any], error: type[TapirError], source: str) -> R:
    """Return a row as a record; columns that the record does not have are ignored.

    Args:
        record: class of the record.
        fields: the columns by name.
        error: class of the exception to raise.
        source: the file and the row, for the message.

    Raises:
        TapirError: of class `error`; a column has a wrong value. The message is one line.
    """
    try:
        return record.model_validate({name: fields[name] for name in record.model_fields if name in fields})
    except ValidationError as failure:
        first = failure.errors()[0]
        column, given = ".".join(map(str, first["loc"])), first["input"]
        if isinstance(given, Unreadable):
            raise error(f"{source}: {column} is {given.reason}.") from failure
        got = "" if first["type"] == "missing" else f", got {given!a:.80}"
        raise error(f"{source} is no {record.__name__}: {column}: {first['msg']}{got}.") from failure


def _read_lines(content: BinaryIO) -> Iterator[RawRow]:
    offset = content.tell()
    # Iteration over bytes splits at \n alone, so that a U+2028 within a string does not end a row.
    for number, line in enumerate(content, 1):
        if line.strip():
            yield _read_line(number, line, offset)
        offset += len(line)


def _read_line(number: int, line: bytes, offset: int) -> RawRow:
    # Files joined by `cat` have marks within. Invalid bytes become lone surrogates, which `_row` finds.
    text = line.decode(errors="surrogateescape").lstrip(BYTE_ORDER_MARK).rstrip()
    start = len(text) - len(text.lstrip())
    try:
        value, end = decode_value(text, start)
        if text[end:]:
            raise json.JSONDecodeError("Extra data", text, len(text) - len(text[end:].lstrip()))
    except (Incomplete, json.JSONDecodeError) as error:
        # A byte in another encoding may be the reason of the error, and is the more helpful one.
        if failure := describe_invalid_utf8(line, offset):
            return RawRow(number, None, failure)
        if isinstance(error, json.JSONDecodeError):
            return RawRow(number, None, f"not valid JSON: {error.msg} at column {error.pos + 1}")
        return RawRow(number, None, "not valid JSON: it ends within a value")
    return _row(number, value, text, lambda: offset + len(line) - len(line.lstrip(codecs.BOM_UTF8)))


def _row(number: int, value: object, text: str, offset: Callable[[], int]) -> RawRow:
    """Check a parsed row.

    Args:
        number: the row's number.
        value: what was parsed.
        text: the JSON text of the value, in which invalid bytes are lone surrogates (`surrogateescape`).
        offset: returns the position of the text's first byte in the file; called only for a bad row.
    """
    if not isinstance(value, dict):
        return RawRow(number, None, f"not a JSON object: {text[:40].encode(errors='replace').decode()}")
    # An escape such as "\ud83d" without its second half is valid JSON, but no UTF-8 file can hold the result.
    if first_surrogate(text):
        failure = describe_invalid_utf8(text.encode(errors="surrogateescape"), offset())
        mark_unreadable(value, lambda bad: failure)
    elif _may_escape_surrogate(text):
        mark_unreadable(value, _describe_surrogate)
    return RawRow(number, value)


def _may_escape_surrogate(text: str) -> bool:
    return "\\ud" in text or "\\uD" in text


def _describe_surrogate(character: str) -> str:
    return f"text that UTF-8 cannot hold: the lone surrogate \\u{ord(character):04x}"


def _read_list(content: BinaryIO, path: Path) -> Iterator[RawRow]:
    buffer = _ListBuffer(content)
    number = 0
    try:
        buffer.skip("[")
        ended = buffer.peek() == "]"
        while not ended:
            value = buffer.read_value()
            number += 1
            # Nearly all rows need none of the checks of their text, which are made for the whole buffer at once.
            whole = buffer.is_whole and isinstance(value, dict)
            yield RawRow(number, value) if whole else _row(number, value, buffer.value_text(), buffer.value_offset)
            ended = buffer.peek() == "]"
            if not ended:
                buffer.skip(",")
        buffer.skip("]")
        if buffer.peek():
            buffer.fail("there is text after the list")
    except _ListError as error:
        raise SourceError(f"{path} cannot be read beyond row {number}: {error}.") from error


class _ListError(Exception):
    """A syntax error in a JSON list."""


class _ListBuffer:
    """The text of a JSON list, read on demand and discarded once it is parsed.

    Attributes:
        is_whole: whether no text of the buffer can be one that UTF-8 cannot hold.
    """

    def __init__(self, content: BinaryIO) -> None:
        self._content = content
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._text = ""
        self._index = 0
        self._value_index = 0
        self._at_end = False
        self.is_whole = True

    def peek(self) -> str:
        """Return the next character that is no whitespace; empty at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._index)
            self._index = space.end() if space else self._index
            if self._index < len(self._text):
                return self._text[self._index]
            if self._at_end:
                return ""
            self._read_more()

    def skip(self, character: str) -> None:
        """Move past the next character. Raise _ListError if it is another one than `character`."""
        if (following := self.peek()) != character:
            self.fail(f"expected {character!r}, got {following!r}" if following else f"it ends without {character!r}")
        self._index += 1

    def read_value(self) -> Any:
        """Return the next value. Raise _ListError if it has a syntax error."""
        self.peek()
        while True:
            try:
                value, end = decode_value(self._text, self._index)
            except Incomplete:
                if self._at_end:
                    self.fail("it ends within a value")
            except json.JSONDecodeError as error:
                # A string that is cut off is reported at its opening quote, which may be far back.
                is_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - CUT_MARGIN
                if self._at_end or not is_cut:
                    self._index = error.pos
                    self.fail(error.msg)
            else:
                if end < len(self._text) or self._at_end:  # otherwise a number may continue in the next chunk
                    self._value_index, self._index = self._index, end
                    return value
            self._read_more()

    def value_text(self) -> str:
        """Return the JSON text of the value that was read last."""
        return self._text[self._value_index : self._index]

    def value_offset(self) -> int:
        """Return the position in the file of the first byte of the value that was read last."""
        return self._offset_of(self._value_index)

    def fail(self, reason: str) -> None:
        """Raise _ListError with the position in the file of the next character."""
        raise _ListError(f"{reason} (byte {self._offset_of(self._index)} of the file)")

    def _offset_of(self, index: int) -> int:
        undecoded = self._decoder.getstate()[0]
        rest = self._text[index:].encode(errors="surrogateescape")
        return self._content.tell() - len(undecoded) - len(rest)

    def _read_more(self) -> None:
        # Reading as much again as is left bounds the work for a row of any size by twice its length.
        rest = self._text[self._index :]
        data = self._content.read(max(CHUNK, len(rest)))
        self._at_end = not data
        self._text = rest + self._decoder.decode(data, final=self._at_end)
        self._index = 0
        self.is_whole = not (_may_escape_surrogate(self._text) or first_surrogate(self._text))
