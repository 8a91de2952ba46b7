"""Run a chat endpoint on the loopback interface, in a separate thread, for the duration of a test."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

from aiohttp import web


class Endpoint(Protocol):
    """Handler of chat completions; `base` is set to its address."""

    base: str

    async def answer(self, request: web.Request) -> web.StreamResponse: ...


E = TypeVar("E", bound=Endpoint)


@contextmanager
def serving(endpoint: E, add_routes: Callable[[web.Application], None] = lambda _: None) -> Iterator[E]:
    """Serve the endpoint, with any further routes that `add_routes` adds."""
    ready, done = threading.Event(), threading.Event()

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", endpoint.answer)
        add_routes(app)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        endpoint.base = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        await asyncio.to_thread(done.wait)
        await runner.cleanup()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: asyncio.run(main()))
        try:
            assert ready.wait(10)
            yield endpoint
        finally:
            done.set()
        running.result(10)
