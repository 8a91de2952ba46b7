"""How long a provider asks to wait, from headers or from the text of an error."""

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = r"(\d+(?:\.\d+)?)\s*(ms|milliseconds?|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
_IN_TEXT = re.compile(
    r"(?:(?:try again|retry|retrying|available|resets?)\s+(?:in|after)|retryDelay\W+|wait(?:\s+for)?)"
    rf"\s*((?:{_PART}\s*,?\s*)+)",
    re.IGNORECASE,
)
_EPOCH_S = 1e9
"""Numbers above it are a time since 1970, in seconds or milliseconds, not a duration."""


def told_wait_s(headers: Mapping[str, str], text: str, *, limited: bool) -> float:
    """Return the seconds that a provider asks to wait; 0.0 if it does not ask.

    Args:
        headers: The response headers.
        text: The text of the error, such as "Please try again in 1m2s" or "retryDelay 2s".
        limited: Whether the error may be a rate limit: only then do the reset times of the limits count.
    """
    lower = {str(name).lower(): str(value) for name, value in headers.items()}
    wait_s = _number(lower.get("retry-after-ms", "")) / 1000 or retry_after_s(lower) or _text_wait_s(text)
    return wait_s or (_reset_s(lower) if limited else 0.0)


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Parse the Retry-After header, a number or an HTTP date, into seconds; 0 if it is missing or malformed."""
    value = headers.get("retry-after", "")
    if re.fullmatch(r"\s*[\d.]+\s*", value):
        return _number(value)
    return max(0.0, _date_s(value) - _server_time_s(headers)) if value else 0.0


def duration_s(text: str) -> float:
    """Parse a duration such as `1m2.5s`, `20 ms` or `86400 seconds`; a number without a unit is in seconds."""
    if re.fullmatch(r"\s*[\d.]+\s*", text):
        return _number(text)
    parts = re.findall(_PART, text, re.IGNORECASE)
    return sum(_number(number) * _UNITS["ms" if unit.lower().startswith(("ms", "mil")) else unit[0].lower()]
               for number, unit in parts)  # fmt: skip


def _text_wait_s(text: str) -> float:
    return max((duration_s(match.group(1)) for match in _IN_TEXT.finditer(text)), default=0.0)


def _reset_s(headers: Mapping[str, str]) -> float:
    """Return the time until the exhausted limits are reset, from headers such as x-ratelimit-reset-tokens."""
    waits = []
    for name, value in headers.items():
        if not re.search(r"ratelimit.*reset", name):
            continue
        remaining = headers.get(name.replace("reset", "remaining"))
        # Headers of limits that are not exhausted name times, too.
        if remaining is not None and _number(remaining) > 0:
            continue
        waits.append(_time_or_duration_s(value, headers))
    return max(waits, default=0.0)


def _time_or_duration_s(value: str, headers: Mapping[str, str]) -> float:
    number = _number(value)
    if number >= _EPOCH_S:
        return max(0.0, (number / 1000 if number >= _EPOCH_S * 1000 else number) - _server_time_s(headers))
    if number or not re.match(r"\d{4}-", value):
        return duration_s(value)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return 0.0
    return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - _server_time_s(headers))


def _server_time_s(headers: Mapping[str, str]) -> float:
    """Return the provider's time: the clock of this machine may be wrong."""
    return _date_s(headers.get("date", "")) or time.time()


def _date_s(value: str) -> float:
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError, TypeError):
        return 0.0


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0.0
    # False for nan, too.
    return number if 0.0 < number < float("inf") else 0.0
