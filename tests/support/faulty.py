"""An unreliable server: every kind of failure, at a rate, determined by the prompt and the attempt alone."""

import asyncio
import time
from collections import Counter
from random import Random
from typing import Any

from aiohttp import web
from loopback import Server, dropped, html, status, text

from tapir_exp.core.errors import ReplyError
from tapir_exp.llm.chat import Completion

TIMEOUT_S = 1.0
"""Time-out for clients of the server, short enough to test calls that hang."""


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(2 * TIMEOUT_S)
    return web.Response(status=504)


def truncated(_: web.Request) -> web.StreamResponse:
    return web.Response(text='{"choices": [{"message": {"content": "re: so', content_type="application/json")


FAULTS = {
    "429": status(429, Retry_After="0.05"),
    "500": status(500),
    "time-out": hang,
    "dropped connection": dropped,
    "HTML page": html(200),
    "truncated JSON": truncated,
    "empty": text(""),
    "cut": text("re: who", "length"),
    "content filter": text("re: ", "content_filter"),
    "unreadable": text("Well, let me think about that."),
}
"""Responders of the failures."""


class FaultyServer(Server):
    """Server that fails a share `rate` of the calls.

    Attributes:
        faults: Names of the failures in FAULTS.
        attempts: Calls by prompt.
        paid: Usable completions by prompt.
        committed: Failures by name.
        in_flight: Calls at this moment.
    """

    def __init__(self, faults: tuple[str, ...] = (), rate: float = 0.0, delay_s: float = 0.0) -> None:
        super().__init__()
        self.faults, self.rate, self.delay_all_s = faults, rate, delay_s
        self.attempts: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.committed: Counter[str] = Counter()
        self.in_flight = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = await request.json()
        prompt = body["messages"][0]["content"]
        self.attempts[prompt] += 1
        self.seen.append((prompt, time.monotonic()))
        self.in_flight += 1
        try:
            await asyncio.sleep(self.delay_all_s)
            response = FAULTS[fault](request) if (fault := self._fault(prompt)) else self._complete(prompt, request)
            return response if isinstance(response, web.StreamResponse) else await response
        finally:
            self.in_flight -= 1

    def _complete(self, prompt: str, request: web.Request) -> Any:
        self.paid[prompt] += 1
        return text(f"re: {prompt}")(request)

    def _fault(self, prompt: str) -> str | None:
        rng = Random(f"{prompt} {self.attempts[prompt]}")
        fault = rng.choice(self.faults) if self.faults and rng.random() < self.rate else None
        self.committed.update([fault] if fault else [])
        return fault


def parse_whole(completion: Completion) -> str:
    """Return the text like a stage would. Raise ReplyError if it is cut or has another form."""
    if completion.finish_reason == "length" or not completion.text.startswith("re: "):
        raise ReplyError("It must begin with 're: ' and be whole.")
    return completion.text
