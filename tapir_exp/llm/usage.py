"""Tokens of a call: as the provider counts them, or by an estimate that is rather too high."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, isfinite
from string import ascii_letters
from typing import Any

MAX_COUNT = 100_000_000
"""Largest plausible number of tokens of one call."""
TOKENS_PER_MESSAGE = 8
"""Tokens of the template around a message."""
_LETTERS = f"{ascii_letters} \n".encode()


@dataclass(frozen=True)
class Counts:
    """Tokens that a provider reports; 0 for a count that it does not report."""

    prompt: int = 0
    completion: int = 0


def token_count(value: object) -> int:
    """Return a plausible number of tokens; 0 for null, text, NaN, negative numbers and any other nonsense."""
    if type(value) is int:
        return value if 0 < value <= MAX_COUNT else 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    if not isfinite(value) or value != int(value) or not 0 < value <= MAX_COUNT:
        return 0
    return int(value)


def read_usage(usage: object) -> Counts:
    """Read the usage of a reply, a mapping or an object with attributes.

    Reasoning tokens are paid as completion tokens. Gemini and xAI leave them out of the completion tokens, but not out
    of the total.
    """
    of = _reader(usage)
    prompt = token_count(of("prompt_tokens")) or token_count(of("input_tokens"))
    completion = token_count(of("completion_tokens")) or token_count(of("output_tokens"))
    details = of("completion_tokens_details") or of("output_tokens_details") or {}
    reasoning = token_count(_reader(details)("reasoning_tokens")) or token_count(of("reasoning_tokens"))
    total = token_count(of("total_tokens"))
    if reasoning > completion:  # it cannot be a part of them
        completion += reasoning
    if prompt and total > prompt + completion:
        completion = total - prompt
    return Counts(prompt, completion)


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text, rather too many than too few.

    English has 4 letters per token or more. A digit or a sign may be a token of its own, and a character of another
    script two.
    """
    ascii_only = text.encode("ascii", errors="ignore")
    letters = len(ascii_only) - len(ascii_only.translate(None, _LETTERS))
    return ceil(letters / 3) + (len(ascii_only) - letters) + 2 * (len(text) - len(ascii_only))


def _reader(source: object) -> Callable[[str], Any]:
    """Return the function that reads a field of a mapping, or of an object with attributes; None for a missing one."""
    if isinstance(source, dict):  # nearly always, and this test is much faster than the next
        return source.get
    return source.get if isinstance(source, Mapping) else lambda name: getattr(source, name, None)
