"""One mistake in a configuration, and how it is worded."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Values = Mapping[str, Any]
"""The readable leaves by dotted key."""


SECRET = re.compile(r"\bsk-|\b(hf|ghp)_|\bxox[a-z]-|\bBearer |://[^/\s]+:[^/\s]+@")
"""How the keys of well-known providers begin, and an address with a password in it."""


LONGEST_NAME = 64


@dataclass(frozen=True)
class Problem:
    """A mistake: its key, the value (already fit to be shown) and what was expected instead."""

    key: str
    value: str
    expected: str


def describe(problem: Problem, origin: str) -> str:
    """A mistake as a line of text."""
    return f"{problem.key}{problem.value}: expected {problem.expected} [{origin}]"


def is_secret_name(key: str) -> bool:
    """Whether an option of this name carries a secret; counts such as max_tokens do not."""
    name = key.rpartition(".")[2].lower()
    return re.search(r"key(?!_env$)|token(?!s)|secret|passw|authorization|credential", name) is not None


def is_secret_value(value: object) -> bool:
    """Whether a value looks like a key of a provider."""
    return isinstance(value, str) and SECRET.search(value) is not None


def format_value(key: str, value: object) -> str:
    """` = value` for a message, or a note in its place where the value may be a secret."""
    if is_secret_name(key) or is_secret_value(value) or (key.endswith(".api_key_env") and not is_env_name(value)):
        return " (value not shown)"
    return " = null" if value is None else f" = {value}"


def is_env_name(value: object) -> bool:
    return (
        isinstance(value, str) and len(value) <= LONGEST_NAME and re.fullmatch(r"[A-Z_][A-Z0-9_]*", value) is not None
    )
