"""A mistake in a configuration, and its description."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tapir_exp.core.secrets import HIDDEN, has_secret, known_secrets

Values = Mapping[str, Any]
"""Values of the leaves, by dotted key."""
SECRET = re.compile(r"\bsk-|\b(hf|ghp)_|\bxox[a-z]-|\bBearer |://[^/\s]+:[^/\s]+@")
"""Prefixes of the keys of well-known providers, and addresses that contain a password."""
LONGEST_NAME = 64
"""Longest name of an environment variable, in characters; a longer text is probably a key."""


@dataclass(frozen=True)
class Problem:
    """A mistake: its key, the value as shown to the user, and what was expected."""

    key: str
    value: str
    expected: str


def describe(problem: Problem, origin: str) -> str:
    """Describe a mistake in one line."""
    return f"{problem.key}{problem.value}: expected {problem.expected} [{origin}]"


def is_secret_name(key: str) -> bool:
    """Return whether an option of this name holds a secret; counts such as max_tokens do not."""
    name = key.rpartition(".")[2].lower()
    return re.search(r"key(?!_env$)|token(?!s)|secret|passw|authorization|credential", name) is not None


def is_secret_value(value: object) -> bool:
    """Return whether a value looks like a key of a provider."""
    return isinstance(value, str) and SECRET.search(value) is not None


def format_value(key: str, value: object) -> str:
    """Return ` = value` for a message, or a note if the value may be a secret."""
    if is_secret_name(key) or is_secret_value(value) or (key.endswith(".api_key_env") and not is_env_name(value)):
        return f" {HIDDEN}"
    if isinstance(value, str | list | dict) and has_secret(str(value), known_secrets()):
        return f" {HIDDEN}"
    return " = null" if value is None else f" = {value}"


def is_env_name(value: object) -> bool:
    """Return whether a value can be the name of an environment variable."""
    return (
        isinstance(value, str) and len(value) <= LONGEST_NAME and re.fullmatch(r"[A-Z_][A-Z0-9_]*", value) is not None
    )
