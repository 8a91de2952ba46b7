"""A provider with a will of its own: every way of failing, at a rate, decided by the prompt and the try alone."""

import asyncio
import time
from collections import Counter, deque
from random import Random
from typing import Any

from aiohttp import web
from loopback import Server, dropped, html, said, status

from tapir_exp.core.errors import ReplyError
from tapir_exp.llm.chat import Completion

TIMEOUT_S = 1.0
"""The time-out to give a client, so that a hanging call is one within a test's patience."""


async def hangs(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(2 * TIMEOUT_S)
    return web.Response(status=504)


def truncated(_: web.Request) -> web.StreamResponse:
    return web.Response(text='{"choices": [{"message": {"content": "re: so', content_type="application/json")


FAULTS = {
    "429": status(429, Retry_After="0.05"),
    "500": status(500),
    "time-out": hangs,
    "dropped connection": dropped,
    "HTML page": html(200),
    "truncated JSON": truncated,
    "empty": said(""),
    "cut": said("re: who", "length"),
    "content filter": said("re: ", "content_filter"),
    "unreadable": said("Well, let me think about that."),
}
"""What the provider does instead of answering."""


class Faulty(Server):
    """Commits one of `faults` at a rate; `paid` counts the good answers by prompt, `flying` the calls at the moment."""

    def __init__(self, faults: tuple[str, ...] = (), rate: float = 0.0, delay_s: float = 0.0) -> None:
        super().__init__()
        self.faults, self.rate, self.delay_all_s = faults, rate, delay_s
        self.tries: Counter[str] = Counter()
        self.paid: Counter[str] = Counter()
        self.committed: Counter[str] = Counter()
        self.flying = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body: dict[str, Any] = await request.json()
        prompt = body["messages"][0]["content"]
        self.tries[prompt] += 1
        self.seen.append((prompt, time.monotonic()))
        self.flying += 1
        try:
            await asyncio.sleep(self.delay_all_s)
            answer = FAULTS[fault](request) if (fault := self._fault(prompt)) else self._good(prompt, request)
            return answer if isinstance(answer, web.StreamResponse) else await answer
        finally:
            self.flying -= 1

    def _good(self, prompt: str, request: web.Request) -> Any:
        self.paid[prompt] += 1
        return said(f"re: {prompt}")(request)

    def _fault(self, prompt: str) -> str | None:
        chance = Random(f"{prompt} {self.tries[prompt]}")
        fault = chance.choice(self.faults) if self.faults and chance.random() < self.rate else None
        self.committed.update([fault] if fault else [])
        return fault


def read_whole(reply: Completion) -> str:
    """The reply as a stage reads it. Raises ReplyError where it is cut or of another form."""
    if reply.finish_reason == "length" or not reply.text.startswith("re: "):
        raise ReplyError("It must begin with 're: ' and be whole.")
    return reply.text


def most_within_a_minute(times: list[float]) -> int:
    """The largest number of calls within any 60 seconds."""
    window: deque[float] = deque()
    most = 0
    for now in sorted(times):
        window.append(now)
        while now - window[0] > 60:
            window.popleft()
        most = max(most, len(window))
    return most
