"""Convert rows of instruction data to instruction-response pairs: named columns and chats. Pure.

Columns are found by their usual names, Alpaca's first, or mapped by `seeds.columns`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tapir_exp.core.json_values import Unreadable

CHATS = ("messages", "conversations")
"""Columns that hold a chat: turns with role and content (OpenAI), or with from and value (ShareGPT)."""
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}
"""Roles that the first turns may have, and what they mean."""
COLUMNS = {
    "instruction": ("instruction", "question", "prompt", "query", "problem", "user"),
    "input": ("input", "context"),
    "response": ("output", "response", "answer", "completion", "target", "solution", "reply", "assistant"),
}
"""Usual names of the column of each part of a row; the first one that a row has counts."""
SHOWN_COLUMNS = 12
"""Columns that a message lists."""
TEXT_PARTS = ("text", "input_text", "output_text")
"""Types of the parts of a message that are text."""


class UnusableRow(Exception):
    """A row that is not an instruction with a response; the message is the reason."""


@dataclass(frozen=True)
class SeedPair:
    """An instruction and its response.

    Attributes:
        row_number: position of their row in the source, from 1.
        instruction: the instruction; the input, if there is one, follows after a blank line.
        response: the response that the source has for it.
    """

    row_number: int
    instruction: str
    response: str


def parse_pair(
    fields: Mapping[str, Any],
    row_number: int,
    columns: Mapping[str, str] | None = None,
    *,
    allow_missing_response: bool = False,
) -> SeedPair:
    """Parse a row of any supported format.

    Args:
        fields: the columns of the row by name.
        row_number: position of the row in its source, from 1.
        columns: names of the columns of instruction, input and response; those that it lacks are found by name.
        allow_missing_response: whether a row without a response is a pair with an empty one.

    Raises:
        UnusableRow: the row has no instruction or no response.
    """
    # The rows of a file mostly have the same columns, so their meaning is found once.
    layout = _find_layout(tuple(fields), tuple((columns or {}).items()), allow_missing_response)
    chat = _find_chat(fields, layout) if layout.chats else None
    if chat is None:
        instruction, response = _parse_columns(fields, layout)
    else:
        instruction, response = _parse_chat(fields[chat], chat, allow_missing_response)
    if not instruction:
        raise UnusableRow("no instruction")
    if not response and not allow_missing_response:
        raise UnusableRow("no response")
    return SeedPair(row_number, instruction, response)


@dataclass(frozen=True)
class _Layout:
    """Meaning of the columns of a row.

    Attributes:
        chats: columns that may hold a chat.
        has_instruction: whether a column is named as an instruction is.
        names: column of instruction, input and response; None if the row has none.
        problem: why the columns hold no pair; empty if they do.
    """

    chats: tuple[str, ...]
    has_instruction: bool
    names: tuple[str | None, ...]
    problem: str


@lru_cache(maxsize=64)
def _find_layout(found: tuple[str, ...], mapped: tuple[tuple[str, str], ...], allow_missing_response: bool) -> _Layout:
    """Find the meaning of columns.

    Args:
        found: the columns of a row.
        mapped: parts of a row with the names of their columns; the others are found by their usual names.
        allow_missing_response: whether a row without a column of the response holds a pair.
    """
    columns = dict(mapped)
    choices = {part: (columns[part],) if part in columns else COLUMNS[part] for part in COLUMNS}
    names = {part: next((name for name in choices[part] if name in found), None) for part in COLUMNS}
    has_instruction = names["instruction"] is not None
    # Pairs of input and output, without an instruction.
    if not has_instruction and "instruction" not in columns and names["input"] is not None:
        names = {**names, "instruction": names["input"], "input": None}
    required = ["instruction", *([] if allow_missing_response and "response" not in columns else ["response"])]
    required += [part for part in columns if part not in required]
    missing = [f"no column {columns[part]}" if part in columns else f"no column of the {part}" for part in required
               if names[part] is None]  # fmt: skip
    listed = ", ".join(map(str, found[:SHOWN_COLUMNS])) or "none"
    problem = f"{' and '.join(missing)}, and no chat: the columns are {listed}" if missing else ""
    chats = () if columns else tuple(name for name in CHATS if name in found)
    return _Layout(chats, has_instruction, tuple(names[part] for part in COLUMNS), problem)


def _find_chat(fields: Mapping[str, Any], layout: _Layout) -> str | None:
    # A table may have a chat column that is empty in some rows; those are read by the other columns.
    chats = (name for name in layout.chats if fields[name] is not None)
    return next((name for name in chats if fields[name] or not layout.has_instruction), None)


def _parse_columns(fields: Mapping[str, Any], layout: _Layout) -> tuple[str, str]:
    """Return the instruction, followed by the input if there is one, and the response."""
    if layout.problem:
        raise UnusableRow(layout.problem)
    # The input is optional, also as a column.
    instruction, context, response = ("" if name is None else _text(fields[name], name) for name in layout.names)
    return (f"{instruction}\n\n{context}" if instruction and context else instruction), response


def _parse_chat(turns: object, column: str, allow_missing_response: bool) -> tuple[str, str]:
    """Return the first user message, preceded by the system message if there is one, and the reply to it.

    Turns after the first reply may hold anything, such as calls of tools or images: they are not read.
    """
    if isinstance(turns, Mapping):  # `datasets` stores a list of objects as an object of lists
        turns = _transposed(turns)
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise UnusableRow(_describe(turns, column, "a list"))
    system: list[str] = []
    if turns and (first := _parse_turn(turns[0], column))[0] == "system":
        system = [_text(first[1], "turn")]
    messages = [_parse_turn(turn, column) for turn in turns[len(system) : len(system) + 2]]
    roles = [role for role, _ in messages]
    if roles != ["user", "assistant"] and not (roles == ["user"] and allow_missing_response):
        raise UnusableRow(f"{column} does not begin with a user message and a reply")
    prompt, response = [*(_text(content, "turn") for _, content in messages), ""][:2]
    # A system message alone is not an instruction.
    return ("\n\n".join(filter(None, [*system, prompt])) if prompt else ""), response


def _transposed(turns: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return an object of lists of one length as a list of objects; None for any other object."""
    columns = list(turns.values())
    if not columns or not all(isinstance(column, list) for column in columns) or len({*map(len, columns)}) > 1:
        return None
    return [dict(zip(turns, values, strict=True)) for values in zip(*columns, strict=True)]


def _parse_turn(turn: object, column: str) -> tuple[str, object]:
    """Return the role of a turn and its content, which is not checked."""
    if not isinstance(turn, Mapping):
        raise UnusableRow(_describe(turn, f"{column} has a turn that", "an object"))
    name = _first_set(turn, "role", "from")
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise UnusableRow(f"{column} has a turn with the unknown role {name!r:.40}: expected one of {', '.join(ROLES)}")
    return role, _first_set(turn, "content", "value")


def _first_set(turn: Mapping[str, Any], *names: str) -> Any:
    # A table of both formats has all four columns, of which two are null in every turn.
    return next((turn[name] for name in names if turn.get(name) is not None), None)


def _text(value: object, name: str) -> str:
    """Return a text, or the texts of a list of parts."""
    if value is None:
        return ""
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        return "\n".join(_part_text(part, name) for part in value)
    if not isinstance(value, str):
        raise UnusableRow(_describe(value, name, "text"))
    return value.strip()


def _part_text(part: Mapping[str, Any], name: str) -> str:
    """Return the text of a part; of an image or a call of a tool there is none."""
    kind = part.get("type")
    if kind is not None and kind not in TEXT_PARTS:
        raise UnusableRow(f"{name} has a part that is not text: {kind!r:.40}")
    text = part.get("text")
    if not isinstance(text, str):
        raise UnusableRow(_describe(text, f"{name} has a part that", "text"))
    return _text(text, name)


def _describe(value: object, name: str, expected: str) -> str:
    """Return why a value cannot be used; the reason of an unreadable one is that of the file."""
    return f"{name} is {value.reason}" if isinstance(value, Unreadable) else f"{name} is not {expected}"
