import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest

from tapir_exp.core.event_loop import iterate, run_coroutine

T = TypeVar("T")


async def double(number: int) -> int:
    await asyncio.sleep(0.001)
    return 2 * number


async def fail() -> None:
    raise ValueError("broken")


async def count_to(end: int, closed: list[bool]) -> AsyncIterator[int]:
    try:
        for number in range(end):
            await asyncio.sleep(0.001)
            yield number
    finally:
        closed.append(True)


def within_a_running_loop(call: Callable[[], T]) -> T:
    """Call a synchronous function from a coroutine, as a cell of a notebook does; the outer loop must go on."""

    async def cell() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        ticks: list[int] = []
        ticker = asyncio.ensure_future(double(3))
        ticker.add_done_callback(lambda done: ticks.append(done.result()))
        try:
            return call()
        finally:
            assert (asyncio.get_running_loop(), asyncio.current_task()) == (loop, task)
            async with asyncio.timeout(10):
                await ticker
            await asyncio.sleep(0)
            assert ticks == [6]

    # Not asyncio.run, which handles interrupts itself, as no notebook does.
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(cell())
    finally:
        loop.close()


def test_run_coroutine_with_and_without_a_running_loop() -> None:
    assert run_coroutine(double(4)) == 8
    assert within_a_running_loop(lambda: [run_coroutine(double(number)) for number in range(3)]) == [0, 2, 4]


def test_error_of_a_coroutine_is_raised_and_leaves_the_running_loop() -> None:
    with pytest.raises(ValueError, match="broken"):
        within_a_running_loop(lambda: run_coroutine(fail()))


def test_iterate_with_and_without_a_running_loop() -> None:
    closed: list[bool] = []
    assert list(iterate(count_to(3, closed))) == [0, 1, 2]
    assert within_a_running_loop(lambda: list(iterate(count_to(3, closed)))) == [0, 1, 2]
    assert closed == [True, True]


def test_iterate_closes_what_is_not_consumed() -> None:
    closed: list[bool] = []

    def first() -> int:
        numbers = iterate(count_to(3, closed))
        number = next(numbers)
        numbers.close()
        return number

    assert first() == 0
    assert within_a_running_loop(first) == 0
    assert closed == [True, True]


@pytest.mark.parametrize("call", [lambda function: function(), within_a_running_loop])
def test_interrupt_cancels_the_coroutine(call: Callable[[Callable[[], Any]], Any]) -> None:
    cancelled: list[bool] = []

    async def wait() -> None:
        asyncio.get_running_loop().call_later(0.05, signal.raise_signal, signal.SIGINT)
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(KeyboardInterrupt):
        call(lambda: run_coroutine(wait()))
    assert cancelled == [True]
