"""Requests over pooled connections: every form of a reply, and connections that may not be used again."""

import asyncio
import gzip
from collections.abc import Sequence
from typing import Any

import aiohttp
import pytest

from tapir_exp.config import LLMConfig
from tapir_exp.llm.http_post import DirectPost, HttpReply, SessionPost, open_post
from tapir_exp.llm.openai_transport import open_session
from tapir_exp.llm.reply_size import ReplyTooLarge

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CLOSE = b"close"
"""Piece of a script at which the server closes the connection."""
Sent = tuple[int, bytes]
"""Number of the connection, and the request as it came."""


async def exchange(replies: Sequence[bytes], timeout_s: float) -> tuple[list[Any], list[Sent]]:
    """Send a request for each scripted reply, one after the other; return results or errors, and what was sent."""
    script, seen, connections = iter(replies), list[Sent](), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        number = connections
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line.split(b":")[1]) for line in head.splitlines() if b"ontent-Length" in line)
                seen.append((number, head + await reader.readexactly(length)))
                for piece in next(script).split(b"|"):
                    if piece == CLOSE:
                        return
                    writer.write(piece)
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        headers = {"content-type": "text/plain", "X-Org": "a"}
        config = LLMConfig(
            model="openai/m", api_base=base, timeout_s=timeout_s, extra_params={"extra_headers": headers}
        )
        async with open_session(config, "key") as session:
            post = open_post(session, f"{base}/chat?a=b", None)
            assert isinstance(post, DirectPost)
            results: list[HttpReply | Exception] = []
            for number in range(len(replies)):
                try:
                    results.append(await post.send(f"body {number}".encode(), 1000))
                except Exception as error:
                    results.append(error)
        return results, seen


def run(*replies: bytes, timeout_s: float = 5.0) -> tuple[list[Any], list[Sent]]:
    return asyncio.run(exchange(replies, timeout_s))


def test_request_has_each_header_once() -> None:
    _, [(_, request)] = run(OK)
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    names = [line.partition(":")[0].lower() for line in lines]
    assert first == "POST /v1/chat?a=b HTTP/1.1"
    assert body == b"body 0"
    assert len(set(names)) == len(names)
    assert {"Authorization: Bearer key", "X-Org: a", "Content-Type: application/json"} <= set(lines)
    assert {"host", "user-agent", "accept-encoding"} <= set(names)


@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\n|Content-Length: 4\r\n\r\no|kok", b"okok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n|3\r\nand\r\n0\r\n\r\n", b"okand"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n|" + OK, b"ok"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 22\r\n\r\n"
            + gzip.compress(b"ok", mtime=0).replace(b"|", b""),
            b"ok",
        ),
    ],
    ids=["plain", "pieces", "chunked", "early hints", "empty", "gzip"],
)
def test_reply_is_read_and_its_connection_used_again(reply: bytes, body: bytes) -> None:
    results, seen = run(reply, OK)
    assert [result.body for result in results] == [body, b"ok"]
    assert [number for number, _ in seen] == [1, 1]


@pytest.mark.parametrize(
    ("reply", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 503 No\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 70_000, b"x" * 2**16),
    ],
    ids=["close", "cut error page"],
)
def test_connection_that_may_hold_more_is_not_used_again(reply: bytes, body: bytes) -> None:
    results, seen = run(reply, OK)
    assert [result.body for result in results] == [body, b"ok"]
    assert [number for number, _ in seen] == [1, 2]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"hello\r\n\r\n", aiohttp.ClientResponseError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok|" + CLOSE, aiohttp.ClientPayloadError),
        (CLOSE, aiohttp.ServerDisconnectedError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"x" * 2000, ReplyTooLarge),
    ],
    ids=["no HTTP", "cut off", "disconnected", "too large"],
)
def test_bad_reply_is_an_error_and_the_next_call_works(reply: bytes, error: type[Exception]) -> None:
    (bad, good), seen = run(reply, OK)
    assert isinstance(bad, error)
    assert good.body == b"ok"
    assert [number for number, _ in seen] == [1, 2]


def test_silent_server_times_out() -> None:
    (bad, good), seen = run(b"", OK, timeout_s=0.1)
    assert isinstance(bad, TimeoutError)
    assert good.body == b"ok"
    assert [number for number, _ in seen] == [1, 2]  # the late reply would be taken for that of the next call


@pytest.mark.parametrize(
    ("address", "proxy"),
    [("http://a/v1", "http://proxy:1"), ("http://u:p@a/v1", None), ("ftp://a/v1", None), ("http://[a/v1", None)],
)
def test_special_address_goes_through_the_session(address: str, proxy: str | None) -> None:
    async def kind() -> type:
        async with aiohttp.ClientSession() as session:
            return type(open_post(session, address, proxy))

    assert asyncio.run(kind()) is SessionPost


def test_header_with_a_line_feed_is_refused() -> None:
    async def open_bad() -> None:
        async with aiohttp.ClientSession(headers={"X": "a\r\nY: b"}) as session:
            open_post(session, "http://a/v1", None)

    with pytest.raises(ValueError, match="line feed"):
        asyncio.run(open_bad())
