"""Settings of chat models, of local model servers, and of the spend limits."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

AUTO = "auto"
"""The value of `concurrency` that adapts it to the endpoint."""


class Reasoning(Enum):
    """What becomes of the thoughts of a reasoning model."""

    strip = "strip"
    """They are removed, also from cached completions."""
    keep = "keep"
    """They stay in the reply; thoughts that come beside it are put before it, within <think> tags."""
    refuse = "refuse"
    """A reply with thoughts is refused."""


class LengthLimit(Enum):
    """Name of the parameter that limits the length of a completion."""

    max_tokens = "max_tokens"
    max_completion_tokens = "max_completion_tokens"


@dataclass
class ServerConfig:
    """OpenAI-compatible server that the run starts on this machine when it is first needed, and stops at the end."""

    command: list[str] = field(default_factory=list)
    """Words of the command. {port} is replaced by the port, {python} by this interpreter, {weights} by the file of
    `weights`. Empty if the model is served elsewhere. The server inherits the environment, and so its key: llama-server
    reads LLAMA_API_KEY, vLLM reads VLLM_API_KEY."""
    weights: str | None = None
    """A GGUF file: a path, hf:owner/repository/file.gguf, or a name of `tapir weights`. Its SHA-256 is part of the
    cache key; without weights, the command is."""
    health_path: str = "/health"
    """Path that returns status 200 when the server is ready."""
    startup_timeout_s: float = 300.0
    """Seconds until the server must be ready."""
    max_restarts: int = 3
    """Restarts after a crash or a hang within one run."""


@dataclass
class ListPriceConfig:
    """Price of one model at one endpoint, which a preset contains. It does not hold for another model or endpoint."""

    model: str | None = None
    """Model that the price holds for; null if the preset has no price."""
    api_base: str | None = None
    """Endpoint that the price holds for."""
    usd_per_million_input: float | None = None
    """Price of a million prompt tokens, in USD."""
    usd_per_million_output: float | None = None
    """Price of a million completion tokens, in USD."""


@dataclass
class LLMConfig:
    """A chat model of any provider that litellm supports; OpenAI-compatible endpoints are called directly."""

    model: str = MISSING
    """Model string of litellm, such as openai/gpt-4o. `openai/` and `hosted_vllm/` are OpenAI-compatible endpoints,
    `lab/...` the models of the synthetic lab."""
    api_base: str | None = None
    """Base URL of the endpoint; null for the provider's default."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; never the key itself."""
    use_litellm: bool = False
    """Whether OpenAI-compatible endpoints and the lab's models are called through litellm too. Direct calls take a
    tenth of the CPU time."""
    concurrency: int | str = 16
    """Calls in flight at once. `auto` finds how many the endpoint can serve, up to `max_concurrency`. It starts with 4.
    It has fewer after a refusal for too many calls, a time-out, an error of the server or a rise of the latency."""
    max_concurrency: int = 256
    """Most calls in flight with `concurrency: auto`."""
    timeout_s: float = 120.0
    """Timeout of a call, in seconds."""
    max_attempts: int = 8
    """Attempts per call if the provider fails temporarily."""
    requests_per_minute: int | None = None
    """Calls that may start within any 60 seconds; null for no limit. The limit is shared by all stages, roles and
    processes that use this model, endpoint and key and the same outputs directory."""
    tokens_per_minute: int | None = None
    """Prompt and completion tokens within any 60 seconds, shared likewise; null for no limit."""
    reasoning: Reasoning = Reasoning.strip
    """What becomes of thoughts, such as <think>...</think>, in a completion: strip, keep or refuse."""
    reasoning_tokens: int = 0
    """Tokens that every call may take beyond the limit of its stage, as room for thoughts."""
    max_tokens_param: LengthLimit | None = None
    """Name of the length limit at this endpoint; null derives it from the endpoint's errors."""
    send_temperature: bool = True
    """Whether calls have a temperature. An endpoint whose error rejects it gets none from then on."""
    batch: bool = False
    """Whether to use the batch API (/v1/batches): half the price, but a batch may take a day."""
    usd_per_million_input: float | None = None
    """Price of a million prompt tokens, in USD. Null uses `list_price`, or litellm's price list if there is no
    `api_base`. The lab's models, and models whose server the run starts, are free."""
    usd_per_million_output: float | None = None
    """Price of a million completion tokens, in USD; null likewise."""
    list_price: ListPriceConfig = field(default_factory=ListPriceConfig)
    """Price that a preset has for its model."""
    free_if_private: bool = False
    """Whether calls are free as long as `api_base` is this machine or an address of a private network."""
    extra_params: dict[str, Any] = field(default_factory=dict)
    """Further parameters of the call, passed unchanged; they are part of the cache key."""
    server: ServerConfig = field(default_factory=ServerConfig)
    """Server of this model if the run starts it; `api_base` must then be null."""

    @property
    def most_in_flight(self) -> int:
        """Return the largest number of calls in flight."""
        return self.max_concurrency if isinstance(self.concurrency, str) else self.concurrency


@dataclass
class SpendConfig:
    """Spend limits of a run, or of all jobs of a sweep together; null for no limit.

    The spend before an interruption counts. Calls in flight when a limit is reached are still paid.
    """

    max_usd: float | None = None
    """Limit in US dollars; the price of every model must be known."""
    max_calls: int | None = None
    """Limit of paid calls; cached completions do not count."""
    max_tokens: int | None = None
    """Limit of prompt and completion tokens of paid calls."""
