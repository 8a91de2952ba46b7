"""The interface to chat models: requests, completions and the protocol that every model implements."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol

from tapir_exp.core.records import Record
from tapir_exp.llm.failures import CallError

# The field names of these records are hashed into cache keys and stored in the cache: they cannot be renamed.

CHARS_PER_TOKEN = 4
"""Characters per token of English prose under common tokenizers, an estimate until a provider counts."""


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(Record):
    """A request to a chat model.

    Attributes:
        messages: The conversation so far.
        max_tokens: Limit on the length of the completion.
        temperature: Sampling temperature; 0 is greedy.
        sample: Index that distinguishes repeated draws of one prompt.
        top_logprobs: Number of most likely tokens to report per position, with log-probabilities; 0 for none.
    """

    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float = 0.0
    sample: int = 0
    top_logprobs: int = 0


class TokenLogprob(Record):
    """A candidate token at one position, and its natural log-probability."""

    token: str
    logprob: float


class Usage(Record):
    """Tokens and price of one call.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens of the completion, thoughts included.
        usd: Price; None if the price of the model is unknown.
        estimated: Whether a count is an estimate, because the provider reported none.
    """

    prompt_tokens: int
    completion_tokens: int
    usd: float | None
    estimated: bool = False


class Completion(Record):
    """The reply of a chat model.

    Attributes:
        text: The text of the reply.
        finish_reason: stop or length; completions of earlier versions have the provider's word.
        usage: Tokens and price.
        top_logprobs: The most likely tokens at each position; empty unless the request asks for them.
        reasoning: Thoughts that the provider returned beside the text.
    """

    text: str
    finish_reason: str
    usage: Usage
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
    reasoning: str = ""


class ChatModel(Protocol):
    """A model that completes conversations."""

    def identity(self) -> dict[str, Any]:
        """Return everything that changes the model's completions; it becomes part of cache and artifact keys."""
        ...

    def count_cached(self, requests: Sequence[ChatRequest]) -> int:
        """Return the number of requests that cost nothing because their completions are cached."""
        ...

    def connected(self, requests: Sequence[ChatRequest]) -> AbstractAsyncContextManager[None]:
        """Open the connections that calls within one event loop need, and close them at the end.

        Args:
            requests: All requests that will follow, for models that submit them in bulk.
        """
        ...

    async def complete(self, request: ChatRequest) -> Completion:
        """Complete one request, within `connected`.

        Raises:
            CallError: If this request has no usable completion.
            EndpointError: If the endpoint refuses every request.
        """
        ...

    def record_failed(self, request: ChatRequest, error: CallError) -> None:
        """Record a request that failed for good, with the reason and the last reply."""
        ...
