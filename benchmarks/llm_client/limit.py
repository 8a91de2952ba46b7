"""Duration of 1000 rows at a provider that allows 600 requests per minute, with the client configured accordingly.

python benchmarks/llm_client/limit.py
"""

import json
import tempfile
import time
from pathlib import Path
from urllib.request import urlopen

from compare import server

from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Message
from tapir_exp.llm.client import Client
from tapir_exp.llm.executor import run_requests
from tapir_exp.llm.ledger import SpendScope

ROWS = 1000
PER_MINUTE = 600


def main() -> None:
    """Print rows, requests and seconds."""
    with server(per_minute=PER_MINUTE) as base, tempfile.TemporaryDirectory(dir=Path.cwd()) as store:
        call_store = CallStore(Path(store), SpendScope("benchmark"), SpendConfig())
        config = LLMConfig(model="openai/m", api_base=base, concurrency=64, requests_per_minute=PER_MINUTE)
        requests = [
            ChatRequest(messages=(Message(role="user", content=f"question {n}"),), max_tokens=100) for n in range(ROWS)
        ]
        started = time.perf_counter()
        results = run_requests(
            Client(config, "teacher", call_store),
            requests,
            lambda completion: completion.text,
            label="rows",
            concurrency=64,
            max_failure_rate=0,
        )
        seconds = time.perf_counter() - started
        correct = sum(result.value == f"An answer to: question {n}" for n, result in enumerate(results))
        with urlopen(base.replace("/v1", "/count")) as response:
            sent = json.load(response)["requests"]
        call_store.close()
    print(f"{correct} of {ROWS} rows correct, {sent / ROWS:.3f} requests per row, {seconds:.1f} s")


if __name__ == "__main__":
    main()
