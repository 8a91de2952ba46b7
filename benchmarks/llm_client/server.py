"""OpenAI-compatible server on the loopback interface with a fixed latency and an optional rate limit."""

import argparse
import asyncio
import json
import sys
import time
from collections import deque
from pathlib import Path

from aiohttp import web

sys.path.append(str(Path(__file__).parents[1]))
from local_endpoint import completion, serve


class Provider:
    """Completes every prompt after a fixed latency, up to `per_minute` requests in any 60 seconds; 0 for no limit."""

    def __init__(self, latency_s: float, per_minute: int) -> None:
        self.latency_s = latency_s
        self.per_minute = per_minute
        self.started: deque[float] = deque()
        self.requests = 0
        self.in_flight = self.most_in_flight = 0

    async def complete(self, request: web.Request) -> web.Response:
        self.requests += 1
        body = json.loads(await request.read())
        if self._too_many():
            error = {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}
            return web.json_response(error, status=429, headers={"Retry-After": "1"})
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(self.latency_s)
        self.in_flight -= 1
        text = f"An answer to: {body['messages'][-1]['content']}"
        return web.json_response(completion(body["model"], text, prompt_tokens=20, completion_tokens=60))

    async def count(self, _: web.Request) -> web.Response:
        return web.json_response({"requests": self.requests, "most_in_flight": self.most_in_flight})

    def _too_many(self) -> bool:
        now = time.monotonic()
        while self.started and now - self.started[0] > 60:
            self.started.popleft()
        if self.per_minute and len(self.started) >= self.per_minute:
            return True
        self.started.append(now)
        return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=50)
    parser.add_argument("--per-minute", type=int, default=0)
    args = parser.parse_args()
    provider = Provider(args.latency_ms / 1000, args.per_minute)
    asyncio.run(serve(provider.complete, provider.count))
