"""Measure one client in this process, and print its figures as JSON."""

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

Ask = Callable[[str], Awaitable[str]]
WARM_UP = 64


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
    """Return our client, including its cache, locks, ledger and durable writes."""

    @asynccontextmanager
    async def ours(base: str, in_flight: int) -> Any:
        from tapir_exp.config import LLMConfig, SpendConfig
        from tapir_exp.llm.call_store import CallStore
        from tapir_exp.llm.chat import ChatRequest, Message
        from tapir_exp.llm.client import Client
        from tapir_exp.llm.ledger import SpendScope

        with tempfile.TemporaryDirectory(dir=Path.cwd()) as store:
            call_store = CallStore(Path(store), SpendScope("benchmark"), SpendConfig())
            config = LLMConfig(model="openai/m", api_base=base, concurrency=in_flight, use_litellm=use_litellm)
            chat = Client(config, "teacher", call_store)

            async def ask(prompt: str) -> str:
                message = Message(role="user", content=prompt)
                return (await chat.complete(ChatRequest(messages=(message,), max_tokens=100))).text

            async with chat.connected():
                yield ask
            call_store.close()

    return ours


CLIENTS = {
    "raw aiohttp (the limit)": raw_aiohttp,
    "ours, direct": ours_as(use_litellm=False),
    "ours, through litellm": ours_as(use_litellm=True),
    "litellm.acompletion openai/": litellm_as("openai"),
    "litellm.acompletion hosted_vllm/": litellm_as("hosted_vllm"),
    "AsyncOpenAI": async_openai,
}


async def drive(ask: Ask, prompts: Iterator[str], in_flight: int) -> int:
    """Send every prompt, and return the number of correct responses."""
    correct = 0

    async def work() -> None:
        nonlocal correct
        for prompt in prompts:
            response = await ask(prompt)
            correct += response == f"An answer to: {prompt}"

    await asyncio.gather(*(work() for _ in range(in_flight)))
    return correct


async def measure(name: str, base: str, prompts: int, in_flight: int) -> dict[str, float]:
    """Return requests per second, CPU milliseconds per request, and MB of memory added after the warm-up."""
    async with CLIENTS[name](base, in_flight) as ask:
        await drive(ask, (f"warm {n}" for n in range(WARM_UP)), in_flight)
        before = resident_mb()
        started, cpu = time.perf_counter(), time.process_time()
        correct = await drive(ask, (f"question {n}" for n in range(prompts)), in_flight)
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
    print(json.dumps(asyncio.run(measure(args.name, args.base, args.prompts, args.in_flight))))
