"""The interface of a transport, which sends one request to a provider, and parsing that all transports share."""

import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol

from tapir_exp.llm.chat import ChatRequest, TokenLogprob


@dataclass(frozen=True)
class RawCompletion:
    """A provider's completion before validation.

    Attributes:
        text: The text of the reply, possibly empty.
        finish_reason: The provider's reason.
        prompt_tokens: As counted by the provider; both counts are 0 if it reports none.
        completion_tokens: As counted by the provider.
        top_logprobs: The most likely tokens at each position; empty unless requested.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()


class Transport(Protocol):
    """A connection to a provider. It neither retries nor caches; `Client` does both."""

    def connected(self) -> AbstractAsyncContextManager[None]:
        """Open the connections for one event loop, and close them at the end."""
        ...

    async def send(self, request: ChatRequest) -> RawCompletion:
        """Send a request once, within `connected`.

        Raises:
            CallError: If the call fails; its kind decides what follows.
        """
        ...


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Parse the Retry-After header, a number or an HTTP date, into seconds; 0 if it is missing or malformed."""
    value = headers.get("retry-after", "")
    try:
        # max also turns "nan" into 0.0, because a comparison with nan is false.
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def drop_surrogates(text: str) -> str:
    """Replace lone surrogates, which JSON escapes can contain and UTF-8 files cannot."""
    return text.encode(errors="replace").decode()
