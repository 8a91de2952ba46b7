"""Recognise files that are not UTF-8, and describe the position and the probable encoding."""

import codecs
import re
from pathlib import Path

from tapir_exp.core.errors import SourceError

HEAD = 64
"""Bytes at the start of a file by which UTF-16 and UTF-32 are recognised."""
BYTE_ORDER_MARK = "\N{BYTE ORDER MARK}"


def refuse_missing(path: Path) -> None:
    """Raise SourceError if there is no such file, or it cannot be opened."""
    try:
        if not path.is_file():
            raise SourceError(f"There is no file {path}.")
        path.open("rb").close()
    except OSError as error:  # no permission, or a name that is too long
        raise SourceError(f"{path} cannot be opened: {error.strerror}.") from error


def refuse_utf16(path: Path) -> None:
    """Raise SourceError if the first bytes of a file are those of UTF-16 or UTF-32."""
    with path.open("rb") as content:
        head = content.read(HEAD)
    # A zero byte occurs in neither JSON nor CSV, but in every ASCII character of the wide encodings.
    marked = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE))
    if marked or b"\0" in head:
        wide = head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)) or b"\0\0" in head
        position = 0 if head[0] >= 0xFE else head.index(0)
        name = "UTF-32" if wide else "UTF-16"
        mark = " by its byte-order mark" if marked else ""
        raise SourceError(
            f"{path} cannot be read: not valid UTF-8: byte 0x{head[position]:02x} at position {position} of the file; "
            f"the encoding is probably {name}{mark}. Convert it: iconv -f {name} -t UTF-8."
        )


def find_invalid_utf8(path: Path) -> str | None:
    """Describe the first byte of a file that is not UTF-8; return None if there is none."""
    offset = 0
    with path.open("rb") as content:
        for line in content:  # no character of UTF-8 extends over the end of a line
            if failure := describe_invalid_utf8(line, offset):
                return failure
            offset += len(line)
    return None


def describe_invalid_utf8(data: bytes, offset: int) -> str:
    """Describe the first invalid byte of `data`, which starts at `offset` of its file; empty if all are valid."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return (
            f"not valid UTF-8: byte 0x{data[error.start]:02x} at position {offset + error.start} of the file; "
            f"the encoding is probably {guess_encoding(data)}"
        )
    return ""


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
