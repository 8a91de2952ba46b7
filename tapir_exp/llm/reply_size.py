"""Bounds on what is read of a reply, and on what is kept of it or sent back.

A server can send more than memory holds: two megabytes of gzip stand for gigabytes. Replies are therefore read
piecewise, inflated, up to a ceiling that follows from the length limit of the request.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import Any

from tapir_exp.llm.chat import ChatRequest
from tapir_exp.llm.failures import CallError, FailureKind

BASE_BYTES = 2**20
"""Bytes around a reply: fields of the provider, an echo of the prompt, filter results."""
BYTES_PER_TOKEN = 256
"""Bytes of one token in JSON. The longest tokens of common vocabularies have 128 letters; most have four."""
MAX_BYTES = 2**28
"""Largest reply that is read, whatever the length limit."""
ERROR_BYTES = 2**16
"""Bytes of an error page that are read."""
MAX_CHARS = 20_000
"""Characters of a failed reply that are kept in the ledger."""
ECHO_CHARS_PER_TOKEN = 16
"""Characters per token of the length limit that are sent back with an error message; a longer reply is no text."""

_ceiling: ContextVar[int | None] = ContextVar("ceiling", default=None)
"""Ceiling of the call in progress, for replies that a library reads."""


class ReplyTooLarge(CallError):
    """A reply that is larger than its request allows."""

    def __init__(self, ceiling: int) -> None:
        super().__init__(
            FailureKind.MALFORMED, f"the reply is larger than {ceiling:,} bytes, far more than its length limit allows"
        )


def max_reply_bytes(request: ChatRequest, thinking_tokens: int = 0) -> int:
    """Return the size up to which a reply is read, in bytes after inflation.

    Args:
        request: The request.
        thinking_tokens: Tokens that the call allows beside the reply.
    """
    tokens = request.max_tokens + thinking_tokens
    return min(BASE_BYTES + tokens * BYTES_PER_TOKEN * (1 + request.top_logprobs), MAX_BYTES)


async def read_pieces(pieces: AsyncIterator[bytes], ceiling: int, *, cut: bool = False) -> bytes:
    """Join the pieces of a body.

    Args:
        pieces: The body, inflated piece by piece.
        ceiling: Bytes up to which it is read.
        cut: Whether a longer body is cut instead of rejected, which is enough for an error page.

    Raises:
        ReplyTooLarge: If the body is longer than `ceiling`.
    """
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > ceiling:
            if not cut:
                raise ReplyTooLarge(ceiling)
            return bytes(body[:ceiling])
    return bytes(body)


def bound_echo(text: str, max_tokens: int) -> str:
    """Cut a reply that is sent back to its model; a reply within its length limit is unchanged."""
    return text[: max(MAX_CHARS, ECHO_CHARS_PER_TOKEN * max_tokens)]


@contextmanager
def bounded_httpx(ceiling: int) -> Iterator[None]:
    """Bound the replies that httpx reads within the block, and follow no redirect in it."""
    _patch_httpx()
    token = _ceiling.set(ceiling)
    try:
        yield
    finally:
        _ceiling.reset(token)


@cache
def _patch_httpx() -> None:
    """Make httpx read replies piecewise within `bounded_httpx`; for other users of httpx nothing changes.

    litellm creates its HTTP clients itself, and has no setting for the size of a reply.
    """
    httpx: Any = import_module("httpx")
    original: Callable[..., Any] = httpx.AsyncClient.send

    async def send(client: Any, request: Any, *, stream: bool = False, **options: Any) -> Any:
        ceiling = _ceiling.get()
        if ceiling is None:
            return await original(client, request, stream=stream, **options)
        response = await original(client, request, stream=True, **{**options, "follow_redirects": False})
        if not stream:
            try:
                most = min(ceiling, ERROR_BYTES) if response.is_error else ceiling
                # Where httpx itself keeps the body once it is read.
                response._content = await read_pieces(response.aiter_bytes(), most, cut=response.is_error)
            finally:
                await response.aclose()
        return response

    httpx.AsyncClient.send = send
