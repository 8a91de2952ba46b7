"""Find keys and passwords in text, so that none is written to disk, to W&B, to a card or to the terminal."""

import os
import re
from collections.abc import Iterable, Mapping

HIDDEN = "(value not shown)"
SHORTEST = 10
"""Shortest value of a key variable that is searched for; shorter ones, such as `none`, also occur as ordinary words."""
_KEY_VARIABLE = re.compile(r"(^|_)(API_?KEY|ACCESS_KEY_ID|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PAT)$", re.IGNORECASE)
_PATTERN = re.compile(
    r"\bsk-[\w-]{16,}"
    r"|\b(?:hf|ghp|gho|ghu|ghs|gsk|xai|nvapi|pplx|tgp|r8|github_pat|glpat|AIza)[_-]?[A-Za-z0-9_-]{20,}"
    r"|\bAKIA[A-Z0-9]{16}\b"
    r"|\bxox[a-z]-[\w-]{10,}"
    r"|\b(?:Bearer|Basic)\s+[\w.~+/=-]{12,}"
    r"|://[^/\s:@]*:[^/\s@]+@"
    r"|(?<=[?&])(?:api[_-]?key|key|token|access[_-]token|secret|sig|signature|password)=[^&\s#]{4,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----",
    re.IGNORECASE,
)
"""Keys of well-known providers, headers of authorization, passwords and keys in addresses, private keys."""
_FLAG = re.compile(
    r"--?(?:[\w-]+[-_])?(?:api[-_]?key|token|secret|password|passwd)(?:=(?P<value>.*))?", re.IGNORECASE | re.DOTALL
)
"""An option of a command that takes a secret, such as `--api-key`; `--api-key-file` takes none."""


def known_secrets(names: Iterable[str] = (), environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the values of key variables of the environment, the longest first.

    Args:
        names: Further variables that hold a key, whatever their names.
        environment: The environment; None for that of this process.
    """
    variables = os.environ if environment is None else environment
    chosen = {name for name in variables if _KEY_VARIABLE.search(name)} | set(names)
    values = {variables.get(name, "").strip() for name in chosen}
    return tuple(sorted((value for value in values if len(value) >= SHORTEST), key=lambda value: (-len(value), value)))


def has_secret(text: str, known: Iterable[str] = ()) -> bool:
    """Return whether a text holds a known secret, or one that looks like a key or a password."""
    return any(secret in text for secret in known) or _PATTERN.search(text) is not None


def redact_secrets(text: str, known: Iterable[str] | None = None) -> str:
    """Replace every secret in a text; None for `known` takes the values of key variables of the environment."""
    for secret in known_secrets() if known is None else known:
        text = text.replace(secret, HIDDEN)
    return _PATTERN.sub(HIDDEN, text)


def find_secret_words(words: Iterable[str]) -> list[int]:
    """Return the positions of the words of a command that give a secret as an option."""
    found, expects_value = [], False
    for index, word in enumerate(words):
        flag = _FLAG.fullmatch(word)
        if (expects_value and not word.startswith("-")) or (flag and flag["value"]):
            found.append(index)
        expects_value = flag is not None and flag["value"] is None
    return found
