"""How a call reaches its model: what is sent, what comes back, and the two ways there are."""

import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol

from tapir_exp.llm.chat import ChatRequest, TokenLogprob


@dataclass(frozen=True)
class RawCompletion:
    """What a provider sent back, before anybody asked whether it can be used.

    prompt_tokens, completion_tokens: as the provider counted; 0 both where it did not say.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()


class Transport(Protocol):
    """One way to a provider; it tries once and keeps nothing."""

    def connected(self) -> AbstractAsyncContextManager[None]:
        """Connections that live as long as an event loop needs them."""
        ...

    async def send(self, request: ChatRequest) -> RawCompletion:
        """Send a request once, within `connected`. Raises CallError, which says what kind of failure it was."""
        ...


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that the Retry-After header asks to wait: a number or an HTTP date; 0 where it is missing."""
    asked = headers.get("retry-after", "")
    try:
        return max(0.0, float(asked))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except ValueError:
        return 0.0


def drop_surrogates(text: str) -> str:
    """Text without the lone surrogates that JSON can smuggle in and no file can hold."""
    return text.encode(errors="replace").decode()
