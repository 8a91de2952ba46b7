"""Checks of a model's settings before its first call."""

import os
from collections.abc import Iterator

from tapir_exp.config import LLMConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.llm.openai_transport import base_of, is_openai_compatible
from tapir_exp.llm.proxies import environment_proxy

RESERVED_PARAMS = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "timeout", "api_base", "api_key"}
    | {"stream", "n", "logprobs", "top_logprobs", "num_retries", "max_retries"}
)
"""Arguments of a call that `extra_params` cannot set."""


def read_api_key(config: LLMConfig) -> str | None:
    """Return the API key.

    An endpoint without a key gets the text "none", because litellm would otherwise send it the provider's key. None
    also if the variable is not set: cached completions need no key, and a check reports it before a call.
    """
    if config.api_key_env is not None:
        # A key that was read from a file often ends with a line feed, which no header may hold.
        return os.environ.get(config.api_key_env, "").strip() or None
    return "none" if config.api_base is not None else None


def endpoint_problems(config: LLMConfig, key: str | None, *, is_served: bool) -> Iterator[str]:
    """Yield what would make every call fail.

    Args:
        config: The model and its endpoint.
        key: The API key; None if its environment variable is not set.
        is_served: Whether the run starts the server of the model.
    """
    if config.api_key_env is not None and key is None:
        yield f"the environment variable {config.api_key_env} (llm.api_key_env) is not set"
    if config.batch and not is_openai_compatible(config.model):
        yield f"llm.batch requires a model named openai/NAME or hosted_vllm/NAME, got {config.model}"
    if is_openai_compatible(config.model) and not config.use_litellm and not is_served:
        try:
            environment_proxy(base_of(config))
        except ConfigError as error:
            yield from error.problems
    for param in sorted(RESERVED_PARAMS & set(config.extra_params)):
        yield f"llm.extra_params.{param} is reserved: the stages set it; remove it"
    if is_served and config.api_base is not None:
        yield f"llm.api_base must be null if llm.server.command is set, got {config.api_base}"
    if is_served and not is_openai_compatible(config.model):
        yield f"a local server requires a model named openai/NAME, got {config.model}"
