"""Settings of chat models, of the servers behind them, and of what a run may spend."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class ServerConfig:
    """A server of the OpenAI protocol that the run starts on this machine when it is first needed, and stops."""

    command: list[str] = field(default_factory=list)
    """Its words, with {port} where it is told the port to listen at, {python} for this interpreter and {weights} for
    the file of `weights`; empty where the model is served by somebody else."""
    weights: str | None = None
    """A GGUF file: a path, hf:owner/repository/file.gguf, or one that packages carry (tapir-local-weights). Its SHA-256
    is part of the cache key; without one, the command is."""
    health_path: str = "/health"
    """Path that answers 200 once it can serve."""
    startup_timeout_s: float = 300.0
    """Seconds until it must."""
    max_restarts: int = 3
    """How often it may die, or hang, and be started again within a run."""


@dataclass
class LLMConfig:
    """A chat model of any provider that litellm knows; endpoints of the OpenAI protocol are reached directly."""

    model: str = MISSING
    """litellm's model string, such as openai/gpt-4o; `openai/` and `hosted_vllm/` are endpoints of the OpenAI protocol,
    `lab/...` the oracles of the embedded lab."""
    api_base: str | None = None
    """Base URL of the endpoint; null for the provider's own."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; never the key itself."""
    use_litellm: bool = False
    """Whether an endpoint of the OpenAI protocol is reached through litellm, as all other providers are. The direct way
    takes a tenth of the CPU time."""
    concurrency: int = 16
    """Calls in flight at once."""
    timeout_s: float = 120.0
    """Seconds until a call is given up."""
    max_attempts: int = 8
    """Tries per call when the provider fails for a passing reason."""
    requests_per_minute: int | None = None
    """Calls that may start within any 60 seconds, over all stages, roles and processes that use this model at this
    endpoint with this key and share the outputs directory; null for no limit of ours."""
    tokens_per_minute: int | None = None
    """Tokens, prompt and completion, within any 60 seconds, counted likewise; null for no limit of ours."""
    batch: bool = False
    """Whether to ask in batches (OpenAI's /v1/batches): half the price, but an answer may take a day."""
    usd_per_million_input: float | None = None
    """Price of a million prompt tokens; null asks litellm's price list, where there is no api_base."""
    usd_per_million_output: float | None = None
    """Price of a million completion tokens; null asks litellm's price list, where there is no api_base."""
    extra_params: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the call, passed as they are; they are part of the cache key."""
    server: ServerConfig = field(default_factory=ServerConfig)
    """The server of this model, where the run is to start it; api_base is then null."""


@dataclass
class SpendConfig:
    """What a run, or all jobs of a sweep together, may spend on chat models; null for no limit.

    What was spent before a run was stopped counts; calls in flight at the end may come on top.
    """

    max_usd: float | None = None
    """US dollars; the price of every model in use must then be known."""
    max_calls: int | None = None
    """Calls that were paid for; replies from the cache do not count."""
    max_tokens: int | None = None
    """Tokens of those calls, prompt and completion."""
