"""Replies are read up to a ceiling, inflated size included; redirects are not followed; what is kept is bounded."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable
from functools import cache

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from loopback import completion, request

from tapir_exp.config import LLMConfig
from tapir_exp.core.errors import ReplyError
from tapir_exp.llm import http_post, reply_size
from tapir_exp.llm.chat import ChatRequest, Completion, Usage
from tapir_exp.llm.executor import _retry_request
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.litellm_transport import LitellmTransport
from tapir_exp.llm.openai_transport import HttpTransport
from tapir_exp.llm.reply_size import BASE_BYTES, MAX_BYTES, bound_echo, max_reply_bytes, read_pieces
from tapir_exp.llm.transport import RawCompletion, Transport

MEGABYTE = b"x" * 2**20
START = b'{"choices": [{"finish_reason": "stop", "message": {"content": "'
PIECES = 40


@cache
def pack(wbits: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, wbits)
    return packer.compress(START) + b"".join(packer.compress(MEGABYTE) for _ in range(PIECES)) + packer.flush()


async def stream(got: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(got)
    try:
        for _ in range(PIECES):
            await response.write(MEGABYTE)
    except ConnectionError:
        pass
    return response


def packed(encoding: str, wbits: int) -> Callable[[web.Request], web.Response]:
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    return lambda _: web.Response(body=pack(wbits), headers=headers)


def redirect(got: web.Request) -> web.Response:
    raise web.HTTPTemporaryRedirect("/elsewhere/chat/completions")


def send(transport_type: type[HttpTransport] | type[LitellmTransport], answer: object) -> tuple[object, list[str]]:
    """Return what a transport makes of an answer, and the requests at the address that the answer redirects to."""
    followed: list[str] = []

    def elsewhere(got: web.Request) -> web.Response:
        followed.append(got.headers.get("Authorization", ""))
        return web.json_response(completion("stolen"))

    async def call() -> object:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)  # type: ignore[arg-type]
        app.router.add_post("/elsewhere/chat/completions", elsewhere)
        async with TestServer(app) as server:
            config = LLMConfig(model="openai/m", api_base=str(server.make_url("/v1")), timeout_s=20.0)
            transport: Transport = transport_type(config, "key")
            async with transport.connected():
                try:
                    return await transport.send(request("q"))
                except CallError as error:
                    return error

    return asyncio.run(call()), followed


@pytest.mark.parametrize("transport_type", [HttpTransport, LitellmTransport])
@pytest.mark.parametrize("answer", [stream, packed("gzip", 31)], ids=["plain", "gzip"])
def test_huge_reply_is_malformed_and_not_read(transport_type: type, answer: object) -> None:
    error, _ = send(transport_type, answer)
    assert isinstance(error, CallError)
    assert error.kind is FailureKind.MALFORMED
    assert "larger than 1,053,696 bytes" in error.detail


@pytest.mark.parametrize("transport_type", [HttpTransport, LitellmTransport])
def test_reply_is_inflated_no_further_than_its_ceiling(transport_type: type, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    async def count(pieces: AsyncIterator[bytes], ceiling: int, *, cut: bool = False) -> bytes:
        async def counted() -> AsyncIterator[bytes]:
            async for piece in pieces:
                sizes.append(len(piece))
                yield piece

        return await read_pieces(counted(), ceiling, cut=cut)

    monkeypatch.setattr(http_post, "read_pieces", count)
    monkeypatch.setattr(reply_size, "read_pieces", count)
    send(transport_type, packed("deflate", 15))
    assert BASE_BYTES < sum(sizes) < PIECES // 4 * 2**20


@pytest.mark.parametrize("transport_type", [HttpTransport, LitellmTransport])
def test_small_packed_reply_is_read(transport_type: type) -> None:
    body = gzip.compress(b'{"choices": [{"finish_reason": "stop", "message": {"content": "yes"}}]}')
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    reply, _ = send(transport_type, lambda _: web.Response(body=body, headers=headers))
    assert isinstance(reply, RawCompletion)
    assert reply.text == "yes"


@pytest.mark.parametrize("transport_type", [HttpTransport, LitellmTransport])
def test_redirect_is_not_followed(transport_type: type) -> None:
    error, followed = send(transport_type, redirect)
    assert isinstance(error, CallError)
    assert "307" in error.detail
    assert followed == []


@pytest.mark.parametrize("transport_type", [HttpTransport, LitellmTransport])
def test_huge_error_page_keeps_its_status(transport_type: type) -> None:
    page = gzip.compress(MEGABYTE * 5, 1)
    headers = {"Content-Encoding": "gzip"}
    error, _ = send(transport_type, lambda _: web.Response(body=page, headers=headers, status=503))
    assert isinstance(error, CallError)
    assert error.kind is FailureKind.SERVER


@pytest.mark.parametrize(
    ("wanted", "thinking", "size"),
    [
        (ChatRequest(messages=(), max_tokens=100), 0, BASE_BYTES + 25_600),
        (ChatRequest(messages=(), max_tokens=100), 900, BASE_BYTES + 256_000),
        (ChatRequest(messages=(), max_tokens=100, top_logprobs=20), 0, BASE_BYTES + 21 * 25_600),
        (ChatRequest(messages=(), max_tokens=2**62), 0, MAX_BYTES),
    ],
)
def test_ceiling_follows_from_the_length_limit(wanted: ChatRequest, thinking: int, size: int) -> None:
    assert max_reply_bytes(wanted, thinking) == size


@pytest.mark.parametrize(("ceiling", "cut", "read"), [(8, False, b"abcdefgh"), (5, True, b"abcde"), (5, False, None)])
def test_read_pieces_stops_at_the_ceiling(ceiling: int, cut: bool, read: bytes | None) -> None:
    taken: list[bytes] = []

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"abcd", b"efgh"):
            taken.append(piece)
            yield piece

    if read is None:
        with pytest.raises(CallError, match="larger than 5 bytes"):
            asyncio.run(read_pieces(pieces(), ceiling, cut=cut))
    else:
        assert asyncio.run(read_pieces(pieces(), ceiling, cut=cut)) == read


def test_reply_is_sent_back_in_part_if_it_is_no_text() -> None:
    usage = Usage(prompt_tokens=1, completion_tokens=1, usd=None)
    for text, kept in (("y" * 20_000, 20_000), ("z" * 10**6, 20_000)):
        reply = Completion(text=text, finish_reason="stop", usage=usage)
        retried = _retry_request(request("q"), reply, ReplyError("no number."))
        assert len(retried.messages[1].content) == kept
    assert len(bound_echo("z" * 10**6, 4000)) == 64_000
