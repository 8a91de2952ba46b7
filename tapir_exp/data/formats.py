"""Rows of instruction data as instruction and response: Alpaca's format, and chats. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CHATS = ("messages", "conversations")
"""Columns that hold a chat: turns with role and content, or with from and value."""
SPEAKERS = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


class UnusableRow(Exception):
    """A row that is no instruction with a response; the message says why."""


@dataclass(frozen=True)
class SeedPair:
    """An instruction and its response, by the number of their row."""

    row: int
    instruction: str
    response: str


def parse_pair(fields: Mapping[str, Any], row: int) -> SeedPair:
    """A row in whichever format it has. Raises UnusableRow where it lacks an instruction or a response."""
    chat = next((name for name in CHATS if fields.get(name) is not None), None)
    instruction, response = _alpaca(fields) if chat is None else _first_exchange(fields[chat], chat)
    if not instruction:
        raise UnusableRow("it has no instruction")
    if not response:
        raise UnusableRow("it has no response")
    return SeedPair(row, instruction, response)


def _alpaca(fields: Mapping[str, Any]) -> tuple[str, str]:
    """Instruction and output; the input, where there is one, follows the instruction."""
    lacking = [name for name in ("instruction", "output") if name not in fields]
    if lacking:
        raise UnusableRow(f"it has no column {' and no column '.join(lacking)}, and no chat")
    instruction, given, response = (_text(fields.get(name), name) for name in ("instruction", "input", "output"))
    return (f"{instruction}\n\n{given}" if instruction and given else instruction), response


def _first_exchange(turns: object, column: str) -> tuple[str, str]:
    """What the user said first, after the system's message if there is one, and the reply to it."""
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise UnusableRow(f"its {column} are no list")
    said = [_turn(turn, column) for turn in turns]
    system = [text for speaker, text in said[:1] if speaker == "system"]
    first = said[len(system) : len(system) + 2]
    if [speaker for speaker, _ in first] != ["user", "assistant"]:
        raise UnusableRow(f"its {column} do not begin with the user and a reply")
    (_, asked), (_, replied) = first
    return ("\n\n".join(filter(None, [*system, asked])) if asked else ""), replied


def _turn(turn: object, column: str) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise UnusableRow(f"its {column} are no turns")
    speaker = SPEAKERS.get(str(turn.get("role", turn.get("from"))))
    if speaker is None:
        raise UnusableRow(f"a turn of its {column} is nobody's: neither user's nor assistant's nor system's")
    return speaker, _text(turn.get("content", turn.get("value")), "turn")


def _text(value: object, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnusableRow(f"its {name} is no text")
    return value.strip()
