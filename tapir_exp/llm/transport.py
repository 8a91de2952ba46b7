"""The interface of a transport, which sends one request to a provider, and parsing that all transports share."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from tapir_exp.core.secrets import HIDDEN, SHORTEST
from tapir_exp.llm.chat import ChatRequest, TokenLogprob


@dataclass(frozen=True)
class RawCompletion:
    """A provider's completion before validation.

    Attributes:
        text: The text of the reply, possibly empty.
        finish_reason: `stop`, `length` or `content_filter`; anything else means that the reply may not be whole.
        prompt_tokens: As counted by the provider; a count that it does not report, or reports as nonsense, is 0.
        completion_tokens: Likewise; includes the tokens of thoughts, which are paid.
        top_logprobs: The most likely tokens at each position; empty unless requested.
        reasoning: Thoughts that the provider returns beside the text.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
    reasoning: str = ""


class Transport(Protocol):
    """A connection to a provider. It neither retries nor caches; `Client` does both."""

    def connected(self) -> AbstractAsyncContextManager[None]:
        """Open the connections for one event loop, and close them at the end."""
        ...

    async def send(self, request: ChatRequest) -> RawCompletion:
        """Send a request once, within `connected`.

        Raises:
            CallError: If the call fails; what follows depends on its kind.
        """
        ...


def drop_surrogates(text: str) -> str:
    """Replace lone surrogates, which JSON escapes can contain and UTF-8 files cannot."""
    return text.encode(errors="replace").decode()


def hide_key(response: RawCompletion, key: str | None) -> RawCompletion:
    """Return a completion without the key of its endpoint, which a provider may repeat, since completions are kept."""
    if key is None or len(key) < SHORTEST or not (key in response.text or key in response.reasoning):
        return response
    text, reasoning = response.text.replace(key, HIDDEN), response.reasoning.replace(key, HIDDEN)
    # The tokens of the logarithms of probability would spell the key.
    return replace(response, text=text, reasoning=reasoning, top_logprobs=())
