"""The one interface to chat models: what is asked, what comes back, and how it can fail."""

from enum import StrEnum
from typing import Any, Literal, Protocol

from tapir_exp.errors import TapirError
from tapir_exp.records import Record


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(Record):
    """A call to a chat model.

    sample: tells repeated draws of one prompt apart.
    top_logprobs: how many of the likeliest tokens to report at each place of the reply, with their log-probabilities;
    0 for none.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    sample: int = 0
    top_logprobs: int = 0


class TokenLogprob(Record):
    """A token that the model could have written at one place, and its natural log-probability."""

    token: str
    logprob: float


class Usage(Record):
    """What one call used; `usd` is None where no price is known."""

    prompt_tokens: int
    completion_tokens: int
    usd: float | None


class Reply(Record):
    """What the model wrote.

    finish_reason: the provider's: stop, length, content_filter, ...
    top_logprobs: at each place of the reply, the likeliest tokens, where the request asked for them; else empty.
    """

    text: str
    finish_reason: str
    usage: Usage
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()


class FailureKind(StrEnum):
    """Why a call brought no reply."""

    PROVIDER = "provider error"
    RATE_LIMIT = "rate limit"
    TIMEOUT = "time-out"
    REFUSED = "request refused"
    EMPTY = "empty reply"


class CallError(TapirError):
    """A call that brought no usable reply, after every retry."""

    def __init__(self, kind: FailureKind, detail: str) -> None:
        self.kind = kind
        super().__init__(f"{kind}: {detail}")


class ChatModel(Protocol):
    """Anything that answers a conversation."""

    def identity(self) -> dict[str, Any]:
        """Everything about the model that changes its replies; part of cache keys and artifact keys."""
        ...

    async def reply(self, request: ChatRequest) -> Reply:
        """Answer one request. Raises CallError where no reply could be had."""
        ...
