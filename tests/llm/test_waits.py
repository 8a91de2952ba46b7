"""Waits that providers ask for, in headers and texts; the clock of this machine does not matter."""

from email.utils import formatdate

import pytest

from tapir_exp.llm.waits import duration_s, retry_after_s, told_wait_s

DATE = formatdate(1_000_000_000, usegmt=True)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("2.5", 2.5),
        ("-3", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("nan", 0.0),
        ("1e400", 0.0),
        ("Fri, 01 Jan 1999 00:00:00 GMT", 0.0),
        ("Fri, 99 Jan 1999 00:00:00 GMT", 0.0),
        (formatdate(1_000_000_007, usegmt=True), 7.0),
    ],
)
def test_retry_after_parses_number_or_date(header: str, seconds: float) -> None:
    """The date is compared with the date of the same reply, not with the clock of this machine."""
    assert retry_after_s({"retry-after": header, "date": DATE}) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("20s", 20), ("6ms", 0.006), ("1m2.5s", 62.5), ("1h2m3s", 3723), ("26 seconds", 26), ("7", 7), ("soon", 0)],
)
def test_duration_is_parsed(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("headers", "text", "seconds"),
    [
        ({"Retry-After-Ms": "1500", "Retry-After": "9"}, "", 1.5),
        ({"Retry-After": "9"}, "try again in 3s", 9),
        ({"Retry-After": "0"}, "Please try again in 3s.", 3),
        ({}, "Please retry after 26 seconds.", 26),
        ({}, "retryDelay 2s", 2),
        ({}, "'retryDelay': '38.5s'", 38.5),
        ({}, "Please try again later", 0),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, "", 360),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "4"}, "", 0),
        ({"X-RateLimit-Reset": "1000000030000", "Date": DATE}, "", 30),
        ({"x-ratelimit-reset": "1000000030", "date": DATE}, "", 30),
        ({"anthropic-ratelimit-tokens-reset": "2001-09-09T01:47:10Z", "date": DATE}, "", 30),
    ],
)
def test_told_wait_is_read(headers: dict[str, str], text: str, seconds: float) -> None:
    assert told_wait_s(headers, text, limited=True) == pytest.approx(seconds)


def test_reset_times_count_for_limits_only() -> None:
    assert told_wait_s({"x-ratelimit-reset-tokens": "5s"}, "", limited=False) == 0.0
