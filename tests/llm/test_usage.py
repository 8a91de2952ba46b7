"""Counts of tokens: plausible ones are believed, others estimated; budgets and limits bind without any."""

from typing import Any

import pytest
from aiohttp import web
from calls import one
from loopback import Server, completion

from tapir_exp.config import LLMConfig, SpendConfig
from tapir_exp.core.errors import BudgetSpent
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.client import Client
from tapir_exp.llm.ledger import SpendScope
from tapir_exp.llm.usage import Counts, estimate_tokens, read_usage, token_count

REASONING = {"reasoning_tokens": 7}


@pytest.mark.parametrize("value", [None, True, "7", -1, 0, 1.5, float("nan"), float("inf"), 1e30, 10**30, [1], {}])
def test_nonsense_is_no_count(value: object) -> None:
    assert token_count(value) == 0


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}, Counts(5, 2)),
        ({"prompt_tokens": 5.0, "completion_tokens": 2}, Counts(5, 2)),
        ({"input_tokens": 5, "output_tokens": 2}, Counts(5, 2)),
        ({"prompt_tokens": 5, "completion_tokens": 9, "completion_tokens_details": REASONING}, Counts(5, 9)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 107}, Counts(5, 102)),
        ({"prompt_tokens": 5, "completion_tokens": 2, "completion_tokens_details": REASONING}, Counts(5, 9)),
        ({"prompt_tokens": -5, "completion_tokens": "2"}, Counts()),
        (None, Counts()),
        ([1], Counts()),
    ],
)  # fmt: skip
def test_usage_is_read(usage: Any, counts: Counts) -> None:
    assert read_usage(usage) == counts


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("The quick brown fox jumps over the lazy dog. " * 10, 100, 170),
        ("12345 + 67890 = 80235", 15, 21),
        ("敏捷的棕色狐狸跳过了懒狗", 12, 24),
        ("", 0, 0),
    ],
)
def test_estimate_is_rather_high(text: str, least: int, most: int) -> None:
    """The least numbers are those of common tokenizers."""
    assert least <= estimate_tokens(text) <= most


@pytest.mark.parametrize("budget", [{"max_tokens": 1000}, {"max_usd": 0.001}, {"max_calls": 9}])
@pytest.mark.parametrize("usage", [None, {"prompt_tokens": -900, "completion_tokens": -900}])
def test_budget_binds_without_usage(server: Server, tmp_path: Any, budget: dict[str, Any], usage: Any) -> None:
    calls = CallStore(tmp_path, SpendScope("run"), SpendConfig(**budget))
    config = LLMConfig(model="openai/m", api_base=server.base, usd_per_million_input=1.0, usd_per_million_output=1.0)
    chat = Client(config, "teacher", calls)
    chat.check(priced=True)
    reply = {**completion("w " * 200), "usage": usage}
    server.script = {str(number): [lambda _: web.json_response(reply)] for number in range(40)}

    def run() -> None:
        for prompt in server.script:
            one(chat, prompt)

    with pytest.raises(BudgetSpent):
        run()
    assert 4 <= len(server.seen) <= 10
    calls.close()


def test_tokens_per_minute_bind_without_usage(server: Server, call_store: CallStore) -> None:
    config = LLMConfig(model="openai/m", api_base=server.base, tokens_per_minute=400)
    chat = Client(config, "teacher", call_store)
    server.script["a"] = [lambda _: web.json_response(completion("w " * 450))]
    one(chat, "a")
    limiter = call_store.limiter(config)
    assert limiter.acquire(101, limiter.now()) > 50
