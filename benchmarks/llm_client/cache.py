"""100,000 kept replies: how fast they are written and found, and how much memory the asking of them takes.

python benchmarks/llm_client/cache.py
"""

import asyncio
import resource
import tempfile
import time
from pathlib import Path

from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Completion, Message, Usage
from tapir_exp.llm.client import Client
from tapir_exp.llm.executor import RequestResult, run_request_stream
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.response_cache import cache_key

REPLIES = 100_000
TEXT = "An answer of some three hundred characters. " * 7
WRITTEN_TOGETHER = 64
SAMPLED_EVERY = 1000


def request(number: int) -> ChatRequest:
    """One of the requests."""
    return ChatRequest(messages=(Message(role="user", content=f"question {number}"),), max_tokens=100)


def resident_mb() -> float:
    """Resident memory at this moment; the highest so far would hide what grows below an earlier peak."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


async def write_all(call_store: CallStore, keys: list[str]) -> None:
    """Keep every reply as a run does: with as many at once as are in flight."""
    reply = Completion(text=TEXT, finish_reason="stop", usage=Usage(prompt_tokens=9, completion_tokens=70, usd=0.0))

    async def write(number: int) -> None:
        await call_store.write(lambda: call_store.cache.put(keys[number], "m", request(number), reply) and None)

    for start in range(0, REPLIES, WRITTEN_TOGETHER):
        await asyncio.gather(*(write(number) for number in range(start, min(start + WRITTEN_TOGETHER, REPLIES))))


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as store:
        call_store = CallStore(Path(store), SpendScope("benchmark"), SpendConfig())
        chat = Client(LLMConfig(model="openai/m", api_base="http://127.0.0.1:9"), "teacher", call_store)
        started = time.perf_counter()
        keys = [cache_key(chat.identity(), request(number)) for number in range(REPLIES)]
        print(f"keys: {REPLIES / (time.perf_counter() - started):,.0f}/s")

        started = time.perf_counter()
        asyncio.run(write_all(call_store, keys))
        print(f"durable writes, {WRITTEN_TOGETHER} at once: {REPLIES / (time.perf_counter() - started):,.0f}/s")

        started = time.perf_counter()
        found = sum(len(call_store.cache.get_many(keys[at : at + 1000])) for at in range(0, REPLIES, 1000))
        print(f"bulk lookups: {found / (time.perf_counter() - started):,.0f}/s, {found} found")

        seen, memory = 0, [resident_mb()]

        def keep(place: int, outcome: RequestResult[str]) -> None:
            nonlocal seen
            seen += outcome.value == TEXT
            if place % SAMPLED_EVERY == 0:
                memory.append(resident_mb())

        started = time.perf_counter()
        requests = (request(number) for number in range(REPLIES))
        asyncio.run(run_request_stream(chat, requests, lambda reply: reply.text, keep, concurrency=64))
        seconds = time.perf_counter() - started
        print(
            f"asked one by one through the client: {seen / seconds:,.0f}/s, {seen} right, "
            f"resident {memory[0]:.0f} MB before, {max(memory):.0f} MB at most, {memory[-1]:.0f} MB at the end"
        )
        call_store.close()


if __name__ == "__main__":
    main()
