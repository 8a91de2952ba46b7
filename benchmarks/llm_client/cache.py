"""Throughput of writes and lookups of 100,000 cached completions, and memory of completing all of them.

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
WRITES_AT_ONCE = 64
SAMPLE_INTERVAL = 1000


def request(number: int) -> ChatRequest:
    """Return a request by number."""
    return ChatRequest(messages=(Message(role="user", content=f"question {number}"),), max_tokens=100)


def resident_mb() -> float:
    """Return the current resident memory in MB; the peak so far would hide growth below an earlier peak."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


async def write_all(call_store: CallStore, keys: list[str]) -> None:
    """Write all completions like a run does: one write for each request in flight."""
    completion = Completion(
        text=TEXT, finish_reason="stop", usage=Usage(prompt_tokens=9, completion_tokens=70, usd=0.0)
    )

    async def write(number: int) -> None:
        await call_store.write(lambda cache: cache.put(keys[number], "m", request(number), completion))

    for start in range(0, REPLIES, WRITES_AT_ONCE):
        await asyncio.gather(*(write(number) for number in range(start, min(start + WRITES_AT_ONCE, REPLIES))))


def main() -> None:
    """Print all figures."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as store:
        call_store = CallStore(Path(store), SpendScope("benchmark"), SpendConfig())
        chat = Client(LLMConfig(model="openai/m", api_base="http://127.0.0.1:9"), "teacher", call_store)
        started = time.perf_counter()
        keys = [cache_key(chat.identity(), request(number)) for number in range(REPLIES)]
        print(f"keys: {REPLIES / (time.perf_counter() - started):,.0f}/s")

        started = time.perf_counter()
        asyncio.run(write_all(call_store, keys))
        print(f"durable writes, {WRITES_AT_ONCE} at once: {REPLIES / (time.perf_counter() - started):,.0f}/s")

        started = time.perf_counter()
        hits = sum(len(call_store.cache.get_many(keys[start : start + 1000])) for start in range(0, REPLIES, 1000))
        print(f"bulk lookups: {hits / (time.perf_counter() - started):,.0f}/s, {hits} found")

        correct, memory = 0, [resident_mb()]

        def on_result(index: int, result: RequestResult[str]) -> None:
            nonlocal correct
            correct += result.value == TEXT
            if index % SAMPLE_INTERVAL == 0:
                memory.append(resident_mb())

        started = time.perf_counter()
        requests = (request(number) for number in range(REPLIES))
        asyncio.run(run_request_stream(chat, requests, lambda completion: completion.text, on_result, concurrency=64))
        seconds = time.perf_counter() - started
        print(
            f"completed through the client: {correct / seconds:,.0f}/s, {correct} correct, "
            f"resident {memory[0]:.0f} MB before, {max(memory):.0f} MB at most, {memory[-1]:.0f} MB at the end"
        )
        call_store.close()


if __name__ == "__main__":
    main()
