"""Convert rows of instruction data to instruction-response pairs: Alpaca's format and chats. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CHATS = ("messages", "conversations")
"""Columns that hold a chat: turns with role and content (OpenAI), or with from and value (ShareGPT)."""
ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


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


def parse_pair(fields: Mapping[str, Any], row_number: int) -> SeedPair:
    """Parse a row of any supported format.

    Args:
        fields: the columns of the row by name.
        row_number: position of the row in its source, from 1.

    Raises:
        UnusableRow: the row has no instruction or no response.
    """
    # A table may have a chat column that is empty in some rows; those are read by the other columns.
    chat = next((name for name in CHATS if fields.get(name) is not None), None)
    instruction, response = _parse_alpaca(fields) if chat is None else _parse_chat(fields[chat], chat)
    if not instruction:
        raise UnusableRow("no instruction")
    if not response:
        raise UnusableRow("no response")
    return SeedPair(row_number, instruction, response)


def _parse_alpaca(fields: Mapping[str, Any]) -> tuple[str, str]:
    """Return the instruction, followed by the input if there is one, and the output."""
    missing = [name for name in ("instruction", "output") if name not in fields]
    if missing:
        raise UnusableRow(f"no column {' and no column '.join(missing)}, and no chat")
    # The input is optional, also as a column.
    instruction, context, response = (_text(fields.get(name), name) for name in ("instruction", "input", "output"))
    return (f"{instruction}\n\n{context}" if instruction and context else instruction), response


def _parse_chat(turns: object, column: str) -> tuple[str, str]:
    """Return the first user message, preceded by the system message if there is one, and the reply to it."""
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise UnusableRow(f"{column} is not a list")
    messages = [_parse_turn(turn, column) for turn in turns]
    system = [text for role, text in messages[:1] if role == "system"]
    first = messages[len(system) : len(system) + 2]
    if [role for role, _ in first] != ["user", "assistant"]:
        raise UnusableRow(f"{column} does not begin with a user message and a reply")
    (_, prompt), (_, response) = first
    # A system message alone is not an instruction.
    return ("\n\n".join(filter(None, [*system, prompt])) if prompt else ""), response


def _parse_turn(turn: object, column: str) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise UnusableRow(f"{column} has a turn that is not an object")
    name = turn.get("role", turn.get("from"))
    role = ROLES.get(str(name))
    if role is None:
        raise UnusableRow(f"{column} has a turn with the unknown role {name!r}: expected one of {', '.join(ROLES)}")
    return role, _text(turn.get("content", turn.get("value")), "turn")


def _text(value: object, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnusableRow(f"{name} is not text")
    return value.strip()
