"""Measure one client in this process, and print its figures as JSON.

Our client runs on the event loop of `run_requests`, which is uvloop's. Every other client is measured on asyncio's, and
raw aiohttp on both.
"""

import argparse
import asyncio
import json
import os
import resource
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

Ask = Callable[[str], Awaitable[str]]
Drive = Callable[[Iterator[str]], Awaitable[int]]
"""Sends every prompt, and returns the number of correct responses."""
WARM_UP = 64


def driven(client: Callable[[str, int], Any]) -> Any:
    """Make a driver of a client that sends one prompt: as many workers as calls in flight."""

    @asynccontextmanager
    async def driver(base: str, in_flight: int) -> Any:
        async with client(base, in_flight) as ask:

            async def drive(prompts: Iterator[str]) -> int:
                correct = 0

                async def work() -> None:
                    nonlocal correct
                    for prompt in prompts:
                        response = await ask(prompt)
                        correct += is_correct(prompt, response)

                await asyncio.gather(*(work() for _ in range(in_flight)))
                return correct

            yield drive

    return driver


def is_correct(prompt: str, response: str) -> bool:
    """Return whether a response is that of the server to this prompt."""
    return response == f"An answer to: {prompt}"


@asynccontextmanager
async def raw_aiohttp(base: str, in_flight: int) -> Any:
    """Yield a client that only sends the request and parses the JSON: the upper limit of the throughput."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session:

        async def ask(prompt: str) -> str:
            body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "max_tokens": 100}
            async with session.post(f"{base}/chat/completions", json=body) as response:
                result = await response.json()
            return str(result["choices"][0]["message"]["content"])

        yield ask


@asynccontextmanager
async def async_openai(base: str, in_flight: int) -> Any:
    import openai

    async with openai.AsyncOpenAI(base_url=base, api_key="none", max_retries=0) as client:

        async def ask(prompt: str) -> str:
            body = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": prompt}], max_tokens=100
            )
            return body.choices[0].message.content or ""

        yield ask


def litellm_as(provider: str) -> Any:
    @asynccontextmanager
    async def plain_litellm(base: str, in_flight: int) -> Any:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        import litellm

        async def ask(prompt: str) -> str:
            body = await litellm.acompletion(
                model=f"{provider}/m",
                messages=[{"role": "user", "content": prompt}],
                max_tokens=100,
                api_base=base,
                api_key="none",
                num_retries=0,
            )
            return str(body.choices[0].message.content)

        yield ask

    return plain_litellm


def ours_as(use_litellm: bool) -> Any:
    """Return our client and executor, including cache, locks, ledger, and the write of each reply before its use."""

    @asynccontextmanager
    async def ours(base: str, in_flight: int) -> Any:
        from tapir_exp.config import LLMConfig, SpendConfig
        from tapir_exp.llm.call_store import CallStore
        from tapir_exp.llm.chat import ChatRequest, Message
        from tapir_exp.llm.client import Client
        from tapir_exp.llm.executor import RequestResult, run_request_stream
        from tapir_exp.llm.ledger import SpendScope

        with tempfile.TemporaryDirectory(dir=Path.cwd()) as store:
            call_store = CallStore(Path(store), SpendScope("benchmark"), SpendConfig())
            config = LLMConfig(model="openai/m", api_base=base, concurrency=in_flight, use_litellm=use_litellm)
            chat = Client(config, "teacher", call_store)

            async def drive(prompts: Iterator[str]) -> int:
                correct = 0
                sent: dict[int, str] = {}

                def requests() -> Iterator[ChatRequest]:
                    for index, prompt in enumerate(prompts):
                        sent[index] = prompt
                        yield ChatRequest(messages=(Message(role="user", content=prompt),), max_tokens=100)

                def on_result(index: int, result: RequestResult[str]) -> None:
                    nonlocal correct
                    correct += is_correct(sent.pop(index), result.raw)

                await run_request_stream(
                    chat, requests(), lambda completion: completion.text, on_result, concurrency=in_flight
                )
                return correct

            yield drive
            call_store.close()

    return ours


CLIENTS = {
    "raw aiohttp (the limit)": driven(raw_aiohttp),
    "raw aiohttp on uvloop": driven(raw_aiohttp),
    "ours, direct": ours_as(use_litellm=False),
    "ours, through litellm": ours_as(use_litellm=True),
    "litellm.acompletion openai/": driven(litellm_as("openai")),
    "litellm.acompletion hosted_vllm/": driven(litellm_as("hosted_vllm")),
    "AsyncOpenAI": driven(async_openai),
}
ON_UVLOOP = {"raw aiohttp on uvloop", "ours, direct", "ours, through litellm"}


async def measure(name: str, base: str, prompts: int, in_flight: int) -> dict[str, float]:
    """Return requests per second, CPU milliseconds per request, and MB of memory added after the warm-up."""
    async with CLIENTS[name](base, in_flight) as drive:
        await drive(f"warm {n}" for n in range(WARM_UP))
        before = resident_mb()
        started, cpu = time.perf_counter(), time.process_time()
        correct = await drive(f"question {n}" for n in range(prompts))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "correct": correct,
        "per_s": correct / seconds,
        "cpu_ms": 1000 * cpu / prompts,
        "extra_mb": resident_mb() - before,
        "seconds": seconds,
    }


def resident_mb() -> float:
    """Return the peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CLIENTS)
    parser.add_argument("base")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=64)
    args = parser.parse_args()
    run = uvloop.run if args.name in ON_UVLOOP else asyncio.run
    print(json.dumps(run(measure(args.name, args.base, args.prompts, args.in_flight))))
