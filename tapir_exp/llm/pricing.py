"""Prices of calls: from the configuration, else from the list that litellm ships, read without importing litellm."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tapir_exp.config import LLMConfig
from tapir_exp.config.lab_parts import LAB_PREFIX

LITELLM_PRICES = "model_prices_and_context_window_backup.json"


@dataclass(frozen=True)
class Price:
    """USD per prompt token and per completion token."""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the USD of a call."""
        return prompt_tokens * self.prompt + completion_tokens * self.completion


def get_price(config: LLMConfig, *, batched: bool = False) -> Price | None:
    """Return the price of a model, or None if it is unknown.

    A price belongs to a model: that of a preset does not hold for another model or endpoint. Models behind a custom
    `api_base` are not in litellm's list. A listed price of 0 counts as unknown; only the configuration can declare a
    model free.

    Args:
        config: The model and its endpoint.
        batched: Whether the call is part of a batch; the list has separate prices for batches.
    """
    prompt, completion = config.usd_per_million_input, config.usd_per_million_output
    if prompt is not None and completion is not None:
        return Price(prompt / 1e6, completion / 1e6)
    if _is_free(config):
        return Price(0.0, 0.0)
    known = config.list_price
    if known.model == config.model and known.api_base == config.api_base:
        prompt = known.usd_per_million_input if prompt is None else prompt
        completion = known.usd_per_million_output if completion is None else completion
        if prompt is not None and completion is not None:
            return Price(prompt / 1e6, completion / 1e6)
    if config.api_base is not None:
        return None
    entry = _find_entry(config.model)
    suffix = "_batches" if batched and "input_cost_per_token_batches" in entry else ""
    prompt, completion = (entry.get(f"{side}_cost_per_token{suffix}") for side in ("input", "output"))
    return Price(prompt, completion) if prompt and completion else None


def _is_free(config: LLMConfig) -> bool:
    """Return whether calls cost nothing: the lab's models, servers of this run, and declared private endpoints."""
    if config.model.startswith(LAB_PREFIX) or config.server.command:
        return True
    return config.free_if_private and config.api_base is not None and is_private_address(config.api_base)


def is_private_address(api_base: str) -> bool:
    """Return whether an address is of this machine, or of a private network."""
    host = urlsplit(api_base).hostname or ""
    with suppress(ValueError):
        address = ip_address(host)
        return address.is_private or address.is_loopback
    # A name without a dot is known to a local network only.
    return host == "localhost" or "." not in host or host.endswith((".localhost", ".local", ".internal", ".lan"))


def _find_entry(model: str) -> Mapping[str, Any]:
    """Return the list's entry of a model, which is filed under its full name or without the provider's prefix."""
    provider, _, name = model.partition("/")
    entry = _load_prices().get(model)
    # Another provider may sell a model of the same name at another price.
    if entry is None and _load_prices().get(name, {}).get("litellm_provider") == provider:
        entry = _load_prices()[name]
    return entry or {}


@cache
def _load_prices() -> Mapping[str, Any]:
    spec = find_spec("litellm")
    assert spec is not None, "litellm is a dependency"
    assert spec.origin is not None, "litellm is a package with a file"
    prices: dict[str, Any] = json.loads((Path(spec.origin).parent / LITELLM_PRICES).read_text(encoding="utf-8"))
    return prices
