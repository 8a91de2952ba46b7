"""OpenAI-compatible server on the loopback interface with a fixed latency and an optional rate limit.

It shares two cores with the client that is measured, so it does the least that HTTP/1.1 allows. A web framework takes
2.5 times as much CPU time per request. A provider's endpoint takes none from the client.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from local_endpoint import completion

HEAD = b"HTTP/1.1 %d %b\r\nContent-Type: application/json; charset=utf-8\r\n%bContent-Length: %d\r\n\r\n%b"


class Provider:
    """Completes every prompt after a fixed latency, up to `per_minute` requests in any 60 seconds; 0 for no limit."""

    def __init__(self, latency_s: float, per_minute: int) -> None:
        self.latency_s = latency_s
        self.per_minute = per_minute
        self.started: deque[float] = deque()
        self.requests = 0
        self.in_flight = self.most_in_flight = 0

    def count(self) -> dict[str, int]:
        """Return what was counted."""
        return {"requests": self.requests, "most_in_flight": self.most_in_flight}

    def begin(self) -> bool:
        """Count a request; return False if it is one too many."""
        self.requests += 1
        now = time.monotonic()
        while self.started and now - self.started[0] > 60:
            self.started.popleft()
        if self.per_minute and len(self.started) >= self.per_minute:
            return False
        self.started.append(now)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return True

    def end(self, request: bytes) -> dict[str, Any]:
        """Return the completion of a request."""
        self.in_flight -= 1
        body = json.loads(request)
        text = f"An answer to: {body['messages'][-1]['content']}"
        return completion(body["model"], text, prompt_tokens=20, completion_tokens=60)


class Connection(asyncio.Protocol):
    """A connection that sends one request after the other, each with a Content-Length."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, separator, rest = self.received.partition(b"\r\n\r\n")
        _, _, length = head.lower().partition(b"content-length:")
        size = int(length.split(b"\r\n", 1)[0] or 0)
        if not separator or len(rest) < size:
            return
        self.received = b""
        if head.startswith(b"GET"):
            self.reply(self.provider.count())
        elif self.provider.begin():
            asyncio.get_running_loop().call_later(self.provider.latency_s, self.complete, rest)
        else:
            error = {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}
            self.reply(error, 429, b"Too Many Requests", b"Retry-After: 1\r\n")

    def complete(self, request: bytes) -> None:
        self.reply(self.provider.end(request))

    def reply(self, content: Any, status: int = 200, reason: bytes = b"OK", headers: bytes = b"") -> None:
        body = json.dumps(content).encode()
        self.transport.write(HEAD % (status, reason, headers, len(body), body))


async def serve(provider: Provider) -> None:
    """Serve until killed; print the port to stdout."""
    server = await asyncio.get_running_loop().create_server(lambda: Connection(provider), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--per-minute", type=int, default=0)
    args = parser.parse_args()
    asyncio.run(serve(Provider(args.latency_ms / 1000, args.per_minute)))
