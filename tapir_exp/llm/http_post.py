"""POST requests to one address over the pooled connections of an aiohttp session.

A session makes URL, headers, cookies, time-outs and a task that writes the body anew for each request. This takes as
much CPU time as all else of a call. `DirectPost` makes them once. The connections, TLS, the parser of replies and the
decompression are still those of aiohttp.
"""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple, Protocol

import aiohttp
from aiohttp import hdrs
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from tapir_exp.llm.reply_size import ERROR_BYTES, read_pieces

CONTENT_TYPE = {"Content-Type": "application/json"}
SCHEMES = ("http", "https")
READ_BYTES = 2**16
"""Bytes that are buffered of a reply."""


class HttpReply(NamedTuple):
    """Status, headers and inflated body of a reply."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Post(Protocol):
    """Sends bodies to one address."""

    async def send(self, body: bytes, ceiling: int) -> HttpReply:
        """Send a body of JSON and read the reply; redirects are not followed.

        Args:
            body: The body.
            ceiling: Bytes up to which a reply with status 200 is read, after inflation; others are cut.

        Raises:
            ReplyTooLarge: If a reply with status 200 is longer.
            TimeoutError: If there is no whole reply within the time-out of the session.
            aiohttp.ClientError: If the connection fails, or what comes is not HTTP.
        """
        ...


def open_post(session: aiohttp.ClientSession, address: str, proxy: str | None) -> Post:
    """Return the way to send bodies to an address: directly, or through a session if there is something special.

    Args:
        session: The session, within the event loop of the calls.
        address: URL of the endpoint.
        proxy: Address of the proxy of the session.
    """
    try:
        url = URL(address)
    except ValueError:  # the error of the session names it
        return SessionPost(session, address)
    is_plain = url.scheme in SCHEMES and url.raw_host and not (url.raw_user or url.raw_password or url.raw_fragment)
    return DirectPost(session, url) if is_plain and proxy is None else SessionPost(session, address)


class SessionPost:
    """Sends bodies with `ClientSession.post`, which supports proxies, and addresses with a user and a password."""

    def __init__(self, session: aiohttp.ClientSession, address: str) -> None:
        self._session, self._address = session, address

    async def send(self, body: bytes, ceiling: int) -> HttpReply:
        """Send a body; see `Post`."""
        # A redirect could send the key to another host.
        async with self._session.post(
            self._address, data=body, headers=CONTENT_TYPE, allow_redirects=False
        ) as response:
            content = await _read(response.status, response.content, ceiling)
            return HttpReply(response.status, response.headers, content)


class DirectPost:
    """Sends bodies over the connections of a session with a head that is written once. It keeps no cookies."""

    def __init__(self, session: aiohttp.ClientSession, url: URL) -> None:
        """Write the head.

        Args:
            session: The session, within the event loop of the calls.
            url: Address of the endpoint.
        """
        assert session.connector is not None
        self._connector, self._timeout = session.connector, session.timeout
        headers = CIMultiDict(session.headers)
        headers.update(CONTENT_TYPE)
        loop = asyncio.get_running_loop()
        # It finds the connections of the pool, and adds the headers that a session adds.
        self._request = aiohttp.ClientRequest("POST", url, headers=headers, session=session, loop=loop)
        self._head = _head_of(self._request)

    async def send(self, body: bytes, ceiling: int) -> HttpReply:
        """Send a body; see `Post`."""
        async with asyncio.timeout(self._timeout.total):
            connection = await self._connect()
            try:
                protocol = connection.protocol
                assert protocol is not None, "a connection that was just taken is open"
                assert protocol.transport is not None, "a connection that was just taken is open"
                protocol.set_response_params(read_until_eof=True, read_bufsize=READ_BYTES)
                protocol.transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
                reply = await self._read_reply(protocol, ceiling)
            except BaseException:
                connection.close()
                raise
            connection.release()  # which closes it if the reply was not read to its end, or asks for it
            return reply

    async def _connect(self) -> aiohttp.connector.Connection:
        """Take a connection from the pool, or open one."""
        try:
            return await self._connector.connect(self._request, traces=[], timeout=self._timeout)
        except TimeoutError:
            raise aiohttp.ConnectionTimeoutError(f"Connection timeout to host {self._request.url}") from None

    async def _read_reply(self, protocol: ResponseHandler, ceiling: int) -> HttpReply:
        try:
            while True:
                message, content = await protocol.read()
                # Provisional replies, such as 103, come before the reply itself.
                if message.code >= HTTPStatus.OK or message.code == HTTPStatus.SWITCHING_PROTOCOLS:
                    break
            return HttpReply(message.code, message.headers, await _read(message.code, content, ceiling))
        except HttpProcessingError as error:
            raise aiohttp.ClientResponseError(
                self._request.request_info, (), status=error.code, message=error.message, headers=error.headers
            ) from error


def _head_of(request: aiohttp.ClientRequest) -> bytes:
    """Return the head of a request up to the length of its body.

    Raises:
        ValueError: If a header holds a line feed, with which it could add headers.
    """
    fields = [f"{name}: {value}" for name, value in request.headers.items() if name != hdrs.CONTENT_LENGTH]
    lines = [f"POST {request.url.raw_path_qs} HTTP/1.1", *fields, f"{hdrs.CONTENT_LENGTH}: "]
    if any(set("\r\n\0") & set(line) for line in lines):
        raise ValueError("a header of the endpoint holds a line feed or a null character")
    return "\r\n".join(lines).encode()


async def _read(status: int, content: aiohttp.StreamReader, ceiling: int) -> bytes:
    failed = status != HTTPStatus.OK
    most = ERROR_BYTES if failed else ceiling
    # Nearly always the whole body has come with the head.
    if content.is_eof() and content.total_bytes <= most:
        return content.read_nowait()
    return await read_pieces(content.iter_any(), most, cut=failed)
