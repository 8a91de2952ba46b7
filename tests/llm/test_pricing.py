"""Prices: from the configuration, else from litellm's list, else unknown."""

import subprocess
import sys
from typing import Any

import pytest
from composing import compose_config

from tapir_exp.config import ListPriceConfig, LLMConfig, ServerConfig
from tapir_exp.llm import pricing
from tapir_exp.llm.pricing import Price, get_price

LIST = {
    "known": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6, "litellm_provider": "openai"},
    "batches": {
        "input_cost_per_token": 4e-6,
        "output_cost_per_token": 8e-6,
        "input_cost_per_token_batches": 1e-6,
        "output_cost_per_token_batches": 3e-6,
        "litellm_provider": "openai",
    },
    "elsewhere/whole": {"input_cost_per_token": 5e-6, "output_cost_per_token": 6e-6, "litellm_provider": "elsewhere"},
    "free": {"input_cost_per_token": 0.0, "output_cost_per_token": 0.0, "litellm_provider": "openai"},
    "image": {"output_cost_per_image": 0.1, "litellm_provider": "openai"},
}


@pytest.fixture
def short_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "_load_prices", lambda: LIST)


def price(model: str, *, batched: bool = False, **changes: Any) -> Price | None:
    return get_price(LLMConfig(model=model, **changes), batched=batched)


def test_cost_multiplies_tokens_by_price() -> None:
    assert Price(2e-6, 1e-5).cost(1000, 100) == pytest.approx(0.003)
    assert Price(2e-6, 1e-5).cost(0, 0) == 0.0


def test_shipped_list_prices_gpt_4o_batches_at_half() -> None:
    single, batched = price("openai/gpt-4o"), price("openai/gpt-4o", batched=True)
    assert single is not None
    assert batched is not None
    assert single == Price(2.5e-6, 1e-5)
    assert batched == Price(single.prompt / 2, single.completion / 2)
    assert price("dashscope/qwen-max") is not None


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("openai/known", Price(1e-6, 2e-6)),
        ("elsewhere/whole", Price(5e-6, 6e-6)),
        ("elsewhere/known", None),
        ("openai/nothing", None),
        ("openai/free", None),
        ("openai/image", None),
        ("known", Price(1e-6, 2e-6)),
    ],
)
def test_get_price_finds_full_or_provider_name(short_list: None, model: str, expected: Price | None) -> None:
    assert price(model) == expected


def test_batch_price_is_used_if_listed(short_list: None) -> None:
    assert price("openai/batches") == Price(4e-6, 8e-6)
    assert price("openai/batches", batch=True) == Price(4e-6, 8e-6)
    assert price("openai/batches", batched=True) == Price(1e-6, 3e-6)
    assert price("openai/known", batched=True) == Price(1e-6, 2e-6)


def test_custom_api_base_has_no_listed_price(short_list: None) -> None:
    assert price("openai/known", api_base="http://localhost:8000/v1") is None
    assert price("openai/batches", api_base="http://localhost:8000/v1", batched=True) is None


def test_configured_price_overrides_list(short_list: None) -> None:
    prices = {"usd_per_million_input": 3.0, "usd_per_million_output": 4.0}
    assert price("openai/known", **prices) == Price(3e-6, 4e-6)
    assert price("x/y", api_base="http://localhost/v1", **prices) == Price(3e-6, 4e-6)
    free = {"usd_per_million_input": 0.0, "usd_per_million_output": 0.0}
    assert price("x/y", **free) == Price(0.0, 0.0)


@pytest.mark.parametrize("prices", [{"usd_per_million_input": 3.0}, {"usd_per_million_output": 3.0}])
def test_incomplete_configured_price_is_ignored(short_list: None, prices: dict[str, float]) -> None:
    assert price("openai/nothing", **prices) is None
    assert price("openai/known", **prices) == Price(1e-6, 2e-6)


QWEN = ListPriceConfig("openai/qwen-max", "https://q", usd_per_million_input=1.0, usd_per_million_output=2.0)


@pytest.mark.parametrize(
    ("model", "changes", "expected"),
    [
        ("openai/qwen-max", {"api_base": "https://q"}, Price(1e-6, 2e-6)),
        ("openai/qwen-plus", {"api_base": "https://q"}, None),
        ("openai/qwen-max", {"api_base": "https://elsewhere"}, None),
        ("openai/known", {}, Price(1e-6, 2e-6)),
        ("openai/qwen-max", {"api_base": "https://q", "usd_per_million_input": 7.0}, Price(7e-6, 2e-6)),
        ("openai/qwen-plus", {"usd_per_million_input": 7.0, "usd_per_million_output": 8.0}, Price(7e-6, 8e-6)),
    ],
)
def test_preset_price_holds_for_its_model_and_endpoint_only(
    short_list: None, model: str, changes: dict[str, Any], expected: Price | None
) -> None:
    assert price(model, list_price=QWEN, **changes) == expected


@pytest.mark.parametrize(
    ("address", "free"),
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://10.0.0.7/v1", True),
        ("http://gpu-node:8000/v1", True),
        ("https://openrouter.ai/api/v1", False),
        ("https://8.8.8.8/v1", False),
    ],
)
def test_local_preset_is_free_at_private_addresses_only(address: str, free: bool) -> None:
    known = price("openai/known", api_base=address, free_if_private=True)
    assert known == (Price(0.0, 0.0) if free else None)
    assert price("openai/known", api_base=address) is None


def test_lab_models_and_own_servers_are_free() -> None:
    assert price("lab/teacher") == Price(0.0, 0.0)
    assert price("openai/x", server=ServerConfig(command=["serve"])) == Price(0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["teacher", "judge"])
@pytest.mark.parametrize("preset", ["lab", "qwen_max", "local_openai_compatible"])
def test_presets_leave_no_price_to_a_changed_model(role: str, preset: str) -> None:
    """The fault: `teacher.llm.model=openai/gpt-4o` kept the price of 0 of the lab, and 0.28 USD were recorded as 0."""
    llm = getattr(compose_config(f"{role}={preset}", f"{role}.llm.model=openai/gpt-4o"), role).llm
    expected = {"lab": Price(2.5e-6, 1e-5), "qwen_max": None, "local_openai_compatible": Price(0.0, 0.0)}
    assert get_price(llm) == expected[preset]


@pytest.mark.slow
def test_prices_are_read_without_importing_litellm() -> None:
    code = (
        "import sys; from tapir_exp.config import LLMConfig; from tapir_exp.llm.pricing import get_price\n"
        "assert get_price(LLMConfig(model='openai/gpt-4o')) is not None\n"
        "sys.exit('litellm' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
