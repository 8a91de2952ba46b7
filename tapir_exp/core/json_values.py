"""Parse one JSON value from outside, whatever is in it: deep nesting, long numbers, NaN, and text that is not UTF-8.

What cannot be kept becomes an `Unreadable` at its place. So a row is not lost by a bad value in a column that is never
read.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 100
"""Levels of lists and objects that are kept; the decoder of the standard library fails at about 1,000."""
MAX_DIGITS = 4300
"""Digits of the longest integer that Python converts from text by default."""


@dataclass(frozen=True)
class Unreadable:
    """Value that a file has, but that cannot be read; never a text, so that it is not used by mistake.

    Attributes:
        reason: the reason, as "kind" or "kind: detail".
    """

    reason: str

    def __repr__(self) -> str:
        """Return the reason, which error messages show as the value."""
        return f"<{self.reason}>"


class Incomplete(Exception):
    """A text that ends within a value."""


TOO_DEEP = Unreadable(f"nested more than {MAX_DEPTH} levels deep")
_CUT = "\ud800deep"
"""Text that stands for a value below `MAX_DEPTH`; a file in UTF-8 cannot hold it."""
_MARKS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{}]', re.DOTALL)
"""Strings and brackets; a quote alone opens a string that is cut off."""


def _parse_int(digits: str) -> int | Unreadable:
    return int(digits) if len(digits) <= MAX_DIGITS else Unreadable(f"an integer of {len(digits)} digits")


# Pandas writes an empty cell as NaN, and an infinite one as Infinity: neither is text, and both mean no value.
_DECODER = json.JSONDecoder(parse_constant=lambda name: None, parse_int=_parse_int)


def decode_value(text: str, index: int) -> tuple[Any, int]:
    """Return the JSON value at an index of a text, and the index after it.

    Raises:
        json.JSONDecodeError: The value has a syntax error.
        Incomplete: The text ends within a deeply nested value.
    """
    try:
        value, end = _DECODER.raw_decode(text, index)
    except RecursionError:
        return _decode_deep(text, index)
    # Counting is fast, and few rows have so many brackets.
    if text.count("[", index, end) + text.count("{", index, end) > MAX_DEPTH:
        return _decode_deep(text, index)
    return value, end


def mark_unreadable(value: Any, reason: Callable[[str], str]) -> None:
    """Replace texts in lists and objects that UTF-8 cannot hold by `Unreadable`, in place.

    Args:
        value: a parsed list or object.
        reason: returns the reason for the first such character of a text.
    """

    def mark(text: str) -> str | Unreadable:
        bad = first_surrogate(text)
        return Unreadable(reason(bad)) if bad else text

    _replace_texts(value, mark)


def _replace_texts(value: Any, replace: Callable[[str], str | Unreadable]) -> None:
    # A loop instead of a recursion, because a value may be nested almost as deep as the limit of recursion.
    remaining = [value]
    while remaining:
        node = remaining.pop()
        for key, child in list(node.items() if isinstance(node, dict) else enumerate(node)):
            if isinstance(child, dict | list):
                remaining.append(child)
            elif isinstance(child, str):
                node[key] = replace(child)
            if isinstance(key, str) and first_surrogate(key):  # a name that is never read
                node[key.encode(errors="backslashreplace").decode()] = node.pop(key)


def first_surrogate(text: str) -> str:
    """Return the first character of a text that UTF-8 cannot hold; empty if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return text[error.start]
    return ""


def contains_unreadable(value: Any) -> bool:
    """Return whether a parsed value is, or holds, an `Unreadable`."""
    remaining = [value]
    while remaining:
        node = remaining.pop()
        if isinstance(node, Unreadable):
            return True
        remaining += node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return False


def _decode_deep(text: str, index: int) -> tuple[Any, int]:
    """Parse a value with everything below `MAX_DEPTH` cut out."""
    kept, start, depth, is_cut = [], index, 0, False
    for mark in _MARKS.finditer(text, index):
        bracket = mark[0]
        if bracket == '"':
            break
        if bracket in "[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                kept.append(text[start : mark.start()])
                is_cut = True
        elif bracket in "]}":
            depth -= 1
            if depth == MAX_DEPTH:
                kept.append(json.dumps(_CUT))
                start = mark.end()
        if not depth:
            reduced = "".join([*kept, text[start : mark.end()]])
            value = _DECODER.decode(reduced)
            if is_cut:
                _replace_texts(value, lambda content: TOO_DEEP if content == _CUT else content)
            return value, mark.end()
    raise Incomplete
