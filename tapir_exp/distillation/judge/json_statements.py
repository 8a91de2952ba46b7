"""Find scores that a judge states as JSON, or as a Python dictionary."""

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from tapir_exp.distillation.judge.statements import (
    CUE_WORD,
    NUMBER,
    PartialScores,
    Statement,
    is_announcement,
    owners_in,
)

MAX_JSON, MAX_BRACKETS = 20_000, 40
"""Largest length in characters, and largest number of opening brackets, of JSON that is read."""


def find_json_statements(text: str, count: int) -> tuple[list[Statement], str]:
    """Return the scores in a JSON object or list of a cleaned text, and the rest of the text.

    Strings of the object that are no scores, such as reasons, belong to the rest.
    """
    statements: list[Statement] = []
    words: list[str] = []
    end = 0
    for first, last in _blocks(text):
        value = _load(text[first:last])
        stated, strings = _read_json(value, count, clear=_is_own(text[:first])) if value is not None else ([], [])
        if stated:
            statements += stated
            words += [text[end:first], *strings]
            end = last
    return statements, re.sub(r"(?m)^\s*```\w*\s*$", "", "\n".join([*words, text[end:]])) if end else text


def _is_own(before: str) -> bool:
    """Return whether JSON behind this text can be the judge's: on its own line, and not announced as a quotation."""
    lines = [line for line in before.split("\n") if line.strip() and not re.fullmatch(r"\s*```\w*\s*", line)]
    starts_line = not before.rpartition("\n")[2].strip()
    return starts_line and not (lines and is_announcement(lines[-1]))


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Return the spans of text between outer brackets, curly or square."""
    depth = start = 0
    for match in re.finditer(r"[{}\[\]]", text):
        if match[0] in "{[":
            start = start if depth else match.start()
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                yield start, match.end()


def _read_json(value: Any, count: int, *, clear: bool) -> tuple[list[Statement], list[str]]:
    """Return the scores in a JSON value, and its strings that are no scores."""
    statements = [Statement(scores, clear, f"{key}: {scores}") for key, scores in _score_lists(value, count)]
    strings: list[str] = []
    for path, leaf in _leaves(value, ()):
        number = _to_number(leaf)
        if number is None:
            strings += [leaf] if isinstance(leaf, str) else []
        elif (stated := _score_of(path, number, count)) is not None:
            statements.append(Statement(stated, clear, f"{path[-1]}: {leaf}"))
    return statements, strings


class _Pairs(list[tuple[str, Any]]):
    """The keys and values of a JSON object; a repeated key stays."""


def _load(text: str) -> Any:
    """Return a JSON value, or a Python dictionary of numbers and words; None if it is neither."""
    if len(text) > MAX_JSON or text.count("{") + text.count("[") > MAX_BRACKETS:
        return None
    for source in (text, text.replace("'", '"')):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(source, object_pairs_hook=_Pairs)
    return None


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, _Pairs):
        for key, inner in value:
            yield from _leaves(inner, (*path, str(key)))
    elif isinstance(value, list):
        for inner in value:
            if not _is_number(inner):
                yield from _leaves(inner, path)
    elif path:
        yield path, value


def _score_lists(value: Any, count: int) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Return the lists of scores under keys such as `scores`, with their keys."""
    for key, inner in value if isinstance(value, _Pairs) else ():
        if CUE_WORD.search(key) and isinstance(inner, list) and len(inner) == count > 1:
            numbers = [_to_number(item) for item in inner]
            scores = tuple(number for number in numbers if number is not None)
            if len(scores) == count:
                yield key, scores


def _score_of(path: tuple[str, ...], number: float, count: int) -> PartialScores | None:
    """Return the scores that a number under these keys states; None if the keys name no response or no score."""
    name = " ".join(path).replace("-", " ")
    if count == 1:
        return (number,) if CUE_WORD.search(name.replace("_", " ")) else None
    owners = owners_in(name) or owners_in(f"assistant {path[-1]}") or owners_in(f"{path[-1]}:".replace("_", " "))
    last = path[-1].replace("_", " ")
    # A number beside the score, such as `length`, is none.
    if len(owners) != 1 or not (CUE_WORD.search(last) or owners_in(last + ":") or owners_in(f"assistant {last}")):
        return None
    return (number, None) if owners == [0] else (None, number)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _to_number(value: Any) -> float | None:
    """Return a number, or one that a string holds alone; None otherwise."""
    if _is_number(value):
        with contextlib.suppress(OverflowError):
            return float(value)
    match = re.fullmatch(rf"\s*{NUMBER}\s*", value) if isinstance(value, str) else None
    return float(match[1]) if match else None
