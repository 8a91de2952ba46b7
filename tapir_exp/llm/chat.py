"""The one interface to chat models: what is asked, and what comes back."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol

from tapir_exp.core.records import Record
from tapir_exp.llm.failures import CallError


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


class Completion(Record):
    """What the model wrote.

    finish_reason: the provider's: stop, length, content_filter, ...
    top_logprobs: at each place of the reply, the likeliest tokens, where the request asked for them; else empty.
    """

    text: str
    finish_reason: str
    usage: Usage
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()


class ChatModel(Protocol):
    """Anything that answers a conversation."""

    def identity(self) -> dict[str, Any]:
        """Everything about the model that changes its replies; part of cache keys and artifact keys."""
        ...

    def count_cached(self, requests: Sequence[ChatRequest]) -> int:
        """How many of these requests cost nothing, since their replies are at hand."""
        ...

    def connected(self, requests: Sequence[ChatRequest]) -> AbstractAsyncContextManager[None]:
        """What calls need for as long as an event loop asks them: connections, closed at the end.

        requests: all that are to come, for whoever sends them in bulk.
        """
        ...

    async def complete(self, request: ChatRequest) -> Completion:
        """Answer one request, within `connected`.

        Raises CallError where no reply could be had, EndpointError where none ever will.
        """
        ...

    def record_failed(self, request: ChatRequest, error: CallError) -> None:
        """Write down a request that brought nothing in the end, with the reason and what was last said."""
        ...
