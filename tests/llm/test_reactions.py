"""Reactions to errors of an endpoint: what is printed about waits."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from tapir_exp.config import LLMConfig
from tapir_exp.llm import reactions
from tapir_exp.llm.rate_limit import SCHEMA, RateLimiter
from tapir_exp.llm.reactions import Reactions
from tapir_exp.llm.sqlite import Database


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(reactions, "console", Console(file=stream, width=200))
    return stream


def test_long_wait_is_told_once_with_limit_and_time(output: io.StringIO) -> None:
    limiter = RateLimiter(Database(Path(":memory:"), SCHEMA, durable=False), "account", 1, None)
    now = limiter.now()
    limiter.acquire(1, now)
    wait_s = limiter.acquire(1, now)
    told = Reactions(LLMConfig(model="openai/m"), "judge", is_served=False)
    for _ in range(5):
        told.tell_wait(2.0, limiter)
        told.tell_wait(wait_s, limiter)
    pattern = r"judge: calls of openai/m wait 6\d s, until \d\d:\d\d:\d\d, for llm\.requests_per_minute=1\n"
    assert re.fullmatch(pattern, output.getvalue())


def test_pause_of_provider_is_told_with_its_reason(output: io.StringIO) -> None:
    limiter = RateLimiter(Database(Path(":memory:"), SCHEMA, durable=False), "account", None, None)
    limiter.pause(20.0)
    told = Reactions(LLMConfig(model="openai/m"), "judge", is_served=False)
    told.pause_reason = "rate limit: 429 [red]Slow down"
    told.tell_wait(limiter.acquire(1, limiter.now()), limiter)
    assert output.getvalue().endswith("for a pause that the provider asked for (rate limit: 429 [red]Slow down)\n")
