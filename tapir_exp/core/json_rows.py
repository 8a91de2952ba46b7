"""Read rows from JSON lists and JSON lines, one at a time.

This is the only reader of JSON rows that come from outside: seed instructions, pools, labelled data, benchmark files
and evaluation results. It accepts a UTF-8 byte-order mark and reads NaN as null, as pandas writes an empty cell.

A bad row keeps its number and gets a reason, and the rows after it are still read. A list is parsed by the standard
library's decoder over a growing buffer. ijson streams as well, but it stops at NaN and at the first invalid byte, and
it replaces a lone surrogate without a warning.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, BinaryIO

from tapir_exp.core.errors import SourceError, TapirError

CHUNK = 1 << 20
"""Bytes of a list that are read at a time."""
CUT_MARGIN = 1024
"""Characters at the end of the buffer within which a syntax error may only mean that a value is cut off."""
HEAD = 64
"""Bytes at the start of a file by which UTF-16 and UTF-32 are recognised."""

_CONSTANTS = {"NaN": None, "Infinity": inf, "-Infinity": -inf}
_DECODER = json.JSONDecoder(parse_constant=_CONSTANTS.__getitem__)
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

    The first character decides the format: a list opens with `[`. Memory use is that of the largest row.

    Args:
        path: the file, of any suffix.

    Raises:
        SourceError: the file is missing, is in UTF-16 or UTF-32, or is a list with a syntax error.
    """
    refuse_missing(path)
    refuse_utf16(path)
    with path.open("rb") as content:
        if content.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            content.seek(0)
        start = content.tell()
        first = content.read(1)
        while first.isspace():
            first = content.read(1)
        content.seek(start)
        yield from _read_list(content, path) if first == b"[" else _read_lines(content)


def read_json_objects(path: Path, error: type[TapirError] = SourceError) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of a JSON list or of JSON lines, and stop at the first bad row.

    Args:
        path: the file, of any suffix.
        error: class of the exception to raise, that of the caller's domain.

    Raises:
        TapirError: of class `error`; the file or one of its rows cannot be read. The message names both.
    """
    try:
        for row in read_json_rows(path):
            if row.fields is None:
                raise error(f"{path}, row {row.number}: {row.failure}.")
            yield row.fields
    except SourceError as failure:
        raise error(str(failure)) from failure


def refuse_missing(path: Path) -> None:
    """Raise SourceError if there is no such file."""
    if not path.is_file():
        raise SourceError(f"There is no file {path}.")


def refuse_utf16(path: Path) -> None:
    """Raise SourceError if the first bytes of a file are those of UTF-16 or UTF-32."""
    with path.open("rb") as content:
        head = content.read(HEAD)
    # A zero byte occurs in neither JSON nor CSV, but in every ASCII character of the wide encodings.
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head:
        wide = head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)) or b"\0\0" in head
        position = 0 if head[0] >= 0xFE else head.index(0)
        name = "UTF-32" if wide else "UTF-16"
        raise SourceError(
            f"{path} cannot be read: not valid UTF-8: byte 0x{head[position]:02x} at position {position} of the file; "
            f"the encoding is probably {name}. Convert it: iconv -f {name} -t UTF-8."
        )


def find_invalid_utf8(path: Path) -> str | None:
    """Describe the first byte of a file that is not UTF-8; return None if there is none."""
    offset = 0
    with path.open("rb") as content:
        for line in content:  # no character of UTF-8 extends over the end of a line
            if failure := _invalid_utf8(line, offset):
                return failure
            offset += len(line)
    return None


def guess_encoding(data: bytes) -> str:
    """Return the probable encoding of bytes that are not valid UTF-8."""
    text = data.decode(errors="replace")
    damaged = text.count("�")
    if sum(not character.isascii() for character in text) > 2 * damaged:
        return "UTF-8 with damaged bytes"
    # Accented letters occur alone between ASCII letters, whereas Chinese text has long runs of high bytes.
    longest = max(map(len, re.findall(rb"[\x80-\xff]+", data)), default=0)
    for encoding, least in (("gb18030", 4), ("cp1252", 0)):
        if longest >= least and _decodes(data, encoding):
            return {"gb18030": "GB18030", "cp1252": "Windows-1252 (Latin-1)"}[encoding]
    return "unknown"


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _invalid_utf8(data: bytes, offset: int) -> str:
    """Describe the first invalid byte of `data`, which starts at `offset` of its file; empty if all are valid."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return (
            f"not valid UTF-8: byte 0x{data[error.start]:02x} at position {offset + error.start} of the file; "
            f"the encoding is probably {guess_encoding(data)}"
        )
    return ""


def _read_lines(content: BinaryIO) -> Iterator[RawRow]:
    offset = content.tell()
    # Iteration over bytes splits at \n alone, so that a U+2028 within a string does not end a row.
    for number, line in enumerate(content, 1):
        if line.strip():
            yield _read_line(number, line, offset)
        offset += len(line)


def _read_line(number: int, line: bytes, offset: int) -> RawRow:
    if failure := _invalid_utf8(line, offset):
        return RawRow(number, None, failure)
    text = line.decode().removeprefix("\N{BYTE ORDER MARK}").rstrip()  # files joined by `cat` have marks within
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        return RawRow(number, None, f"not valid JSON: {error.msg} at column {error.pos + 1}")
    except (ValueError, RecursionError) as error:  # a number of too many digits, too deep a nesting
        return RawRow(number, None, f"not valid JSON: {error}")
    return _row(number, value, text, lambda: offset)


def _row(number: int, value: object, text: str, offset: Callable[[], int]) -> RawRow:
    """Check a parsed row.

    Args:
        number: the row's number.
        value: what was parsed.
        text: the JSON text of the value, in which invalid bytes are lone surrogates (`surrogateescape`).
        offset: returns the position of the text's first byte in the file; called only for a bad row.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return RawRow(number, None, _invalid_utf8(text.encode(errors="surrogateescape"), offset()))
    if not isinstance(value, dict):
        return RawRow(number, None, f"not a JSON object: {text[:40]}")
    # An escape such as "\ud83d" without its second half is valid JSON, but no UTF-8 file can hold the result.
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            surrogate = ord(error.object[error.start])
            return RawRow(number, None, f"text that UTF-8 cannot hold: the lone surrogate \\u{surrogate:04x}")
    return RawRow(number, value)


def _read_list(content: BinaryIO, path: Path) -> Iterator[RawRow]:
    buffer = _ListBuffer(content)
    number = 0
    try:
        buffer.skip("[")
        ended = buffer.peek() == "]"
        while not ended:
            value, text = buffer.read_value()
            number += 1
            yield _row(number, value, text, buffer.value_offset)
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
    """The text of a JSON list, read on demand and discarded once it is parsed."""

    def __init__(self, content: BinaryIO) -> None:
        self._content = content
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self._text = ""
        self._index = 0
        self._value_index = 0
        self._at_end = False

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

    def read_value(self) -> tuple[Any, str]:
        """Return the next value and its JSON text. Raise _ListError if it has a syntax error."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._index)
            except json.JSONDecodeError as error:
                # A string that is cut off is reported at its opening quote, which may be far back.
                is_cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - CUT_MARGIN
                if self._at_end or not is_cut:
                    self._index = error.pos
                    self.fail(error.msg)
            except (ValueError, RecursionError) as error:
                self.fail(str(error))
            else:
                if end < len(self._text) or self._at_end:  # otherwise a number may continue in the next chunk
                    self._value_index, self._index = self._index, end
                    return value, self._text[self._value_index : end]
            self._read_more()

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
