"""Process that sends numbered requests and prints the replies: `request_process.py BASE STORE ROWS [key=value ...]`."""

import json
import sys
from pathlib import Path
from typing import Any

from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.core.errors import TapirError
from tapir_exp.llm import client, rate_limit
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.chat import ChatRequest, Message
from tapir_exp.llm.client import Client
from tapir_exp.llm.executor import run_requests
from tapir_exp.llm.ledger import SpendScope

client.FIRST_WAIT_S = 0.02


def main(base: str, store: str, rows: str, *settings: str) -> None:
    values: dict[str, Any] = {name: json.loads(value) for name, value in (text.split("=") for text in settings)}
    budget = SpendConfig(max_calls=values.pop("max_calls", None))
    rate_limit.WINDOW_S = values.pop("window_s", rate_limit.WINDOW_S)
    call_store = CallStore(Path(store), SpendScope("sweep", values.pop("job", "")), budget)
    config = LLMConfig(**{"model": "openai/m", "api_base": base, "concurrency": 16, **values})
    requests = [
        ChatRequest(messages=(Message(role="user", content=f"question {n}"),), max_tokens=20) for n in range(int(rows))
    ]
    try:
        results = run_requests(
            Client(config, "teacher", call_store),
            requests,
            lambda completion: completion.text,
            label="rows",
            concurrency=config.concurrency,
            max_failure_rate=0.0,
        )
        print(json.dumps([result.value for result in results]))
    except TapirError as error:
        sys.exit(str(error))
    finally:
        call_store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
