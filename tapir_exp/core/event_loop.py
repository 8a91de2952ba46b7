"""An event loop for synchronous code, also in a thread that runs one already, such as that of a notebook."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")


def run_coroutine(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on uvloop's event loop, and return its result."""
    with suspended_loop():
        return uvloop.run(main)


def iterate(items: AsyncIterator[T]) -> Generator[T, None, None]:
    """Yield the items of an asynchronous iterator; its event loop runs only until the next one is there."""
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    try:
        while True:
            with suspended_loop():
                item = runner.run(_next(items))
            if item is None:
                return
            yield item[0]
    finally:
        with suspended_loop():
            runner.close()


@contextmanager
def suspended_loop() -> Iterator[None]:
    """Let another event loop run within the block, even if this thread runs one already.

    The block is synchronous, so the outer loop waits for its end in any case. A thread for the inner loop would not do:
    connections to SQLite belong to one thread, and an interrupt reaches the main thread only.

    Source: the functions by which asyncio lets other implementations of loops and tasks replace its own ("Extending").
    """
    loop = asyncio._get_running_loop()
    if loop is None:
        yield
        return
    task = asyncio.current_task(loop)
    if task is not None:
        asyncio.tasks._leave_task(loop, task)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
        if task is not None:
            asyncio.tasks._enter_task(loop, task)


async def _next(items: AsyncIterator[T]) -> tuple[T] | None:
    try:
        return (await anext(items),)
    except StopAsyncIteration:
        return None
