"""Send many requests to a chat model concurrently, and parse each completion strictly."""

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any, Generic, TypeVar

from tapir_exp.core.console import Progress, console
from tapir_exp.core.errors import ReplyError, TooManyFailures
from tapir_exp.core.event_loop import run_coroutine
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion, Message
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.reply_size import bound_echo
from tapir_exp.llm.slots import MAX_WRITING, WRITING_PER_SLOT, Slot, Slots, set_current

T = TypeVar("T")

INTERRUPT_GRACE_S = 3.0
"""Seconds that calls in flight get to finish after Ctrl-C; their completions are kept."""
ERROR_GRACE_S = 60.0
"""Seconds that calls in flight get to finish after an error."""
MAX_REASONS = 20
"""Rows of the table of failure reasons."""


@dataclass(frozen=True)
class RequestResult(Generic[T]):
    """Result of one request.

    Attributes:
        value: The parsed completion; None if the request failed.
        raw: The last text received; empty if there was none.
        failure: Reason of the failure; None for a value.
        completion: The last completion received, parsable or not; None if every call failed.
    """

    value: T | None
    raw: str
    failure: str | None = None
    completion: Completion | None = None


OnResult = Callable[[int, RequestResult[Any]], None]
"""Takes the index and the result of a request as soon as it is there; after an error that it raises, none is sent."""


def run_requests(
    chat: ChatModel,
    requests: Sequence[ChatRequest],
    parse: Callable[[Completion], T],
    *,
    label: str,
    concurrency: int,
    max_failure_rate: float,
    on_result: OnResult | None = None,
) -> list[RequestResult[T]]:
    """Run all requests and return one result each, in their order.

    A completion that `parse` rejects is requested once more. After Ctrl-C, calls in flight get a few seconds to finish.

    Args:
        chat: The model.
        requests: What to send.
        parse: Returns the value of a completion, or raises ReplyError.
        label: Name of the progress bar and of error messages.
        concurrency: Number of calls in flight.
        max_failure_rate: Share of failed requests that is tolerated, rounded up to a whole request. One failure among
            a handful of requests therefore stops nothing.
        on_result: Called with the index and the result of each request, as they arrive; its error stops the rest.

    Raises:
        TooManyFailures: As soon as more requests have failed; the message holds a table of reasons.
    """
    results: dict[int, RequestResult[T]] = {}

    def keep(index: int, result: RequestResult[T]) -> None:
        results[index] = result
        if on_result is not None:
            on_result(index, result)

    run_each(chat, requests, parse, keep, label=label, concurrency=concurrency, max_failure_rate=max_failure_rate)
    return [results[index] for index in range(len(requests))]


def run_each(
    chat: ChatModel,
    requests: Sequence[ChatRequest],
    parse: Callable[[Completion], T],
    on_result: Callable[[int, RequestResult[T]], None],
    *,
    label: str,
    concurrency: int,
    max_failure_rate: float,
) -> None:
    """Run all requests as `run_requests` does, and pass each result on without keeping it.

    If `requests` builds its items on access, memory holds those in flight only.

    Args:
        chat: The model.
        requests: What to send.
        parse: Returns the value of a completion, or raises ReplyError.
        on_result: Called with the index and the result of each request, as they arrive; its error stops the rest.
        label: Name of the progress bar and of error messages.
        concurrency: Number of calls in flight.
        max_failure_rate: Share of failed requests that is tolerated, rounded up to a whole request.

    Raises:
        TooManyFailures: As soon as more requests have failed.
    """
    done, failures = 0, FailureBudget(label, len(requests), max_failure_rate)
    with Progress(label, total=len(requests)) as progress:

        def report(index: int, result: RequestResult[T]) -> None:
            nonlocal done
            done += 1
            progress.advance()
            failures.count(result)
            on_result(index, result)

        try:
            run_coroutine(run_request_stream(chat, requests, parse, report, concurrency=concurrency))
        except KeyboardInterrupt:
            print_interrupted(label, done, len(requests))
            raise


async def run_request_stream(
    chat: ChatModel,
    requests: "Sequence[ChatRequest] | Iterable[ChatRequest] | RequestQueue",
    parse: Callable[[Completion], T],
    on_result: Callable[[int, RequestResult[T]], None],
    *,
    concurrency: int,
) -> None:
    """Run requests and pass every result to `on_result`, with the request's index, as soon as it is there.

    Memory holds the requests in flight and, for a `RequestQueue`, those that wait. After an error of a call or of
    `on_result`, no new request is sent, and calls in flight may finish before the error is raised.

    Args:
        chat: The model.
        requests: What to send; an iterable is consumed lazily.
        parse: Returns the value of a completion, or raises ReplyError.
        on_result: Called within the event loop; an error that it raises ends the stream.
        concurrency: Number of calls in flight.
    """
    pending = requests if isinstance(requests, RequestQueue) else _PendingRequests(enumerate(requests))

    # Slots bound the calls in flight; further workers wait for the disk at the same time. Together they bound memory.
    slots = getattr(chat, "slots", None) or Slots(concurrency)

    async def work() -> None:
        slot = Slot(slots)
        set_current(slot)
        while (item := await pending.take()) is not None:
            index, request = item
            try:
                await slot.take()
                if pending.closed:
                    return
                on_result(index, await _run_request(chat, request, parse))
            except BaseException:
                pending.close()  # before another worker gets the slot
                raise
            finally:
                slot.give_back()

    # A batch endpoint needs all requests beforehand; for other iterables there is no such list.
    async with chat.connected(requests if isinstance(requests, Sequence) else ()):
        with _frozen_objects():
            await _run_workers(work, pending, concurrency + min(WRITING_PER_SLOT * concurrency, MAX_WRITING))


@contextmanager
def _frozen_objects() -> Iterator[None]:
    """Exempt all objects that exist now, such as modules and models, from garbage collection within the block.

    A collection visits each of them, which took a tenth of the time of calls of 20 ms.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _run_workers(
    work: Callable[[], Coroutine[Any, Any, None]], pending: "_PendingRequests | RequestQueue", count: int
) -> None:
    """Run workers until no request is left; after an error let calls in flight finish, and raise it."""
    workers = [asyncio.create_task(work()) for _ in range(count)]
    try:
        done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:  # Ctrl-C: the runner cancels the main task
        await _drain(workers, pending, INTERRUPT_GRACE_S)
        raise
    if any(worker.exception() for worker in done):
        await _drain(workers, pending, ERROR_GRACE_S)
    for worker in done:
        worker.result()


class _PendingRequests:
    """Requests that are known beforehand, each with its index."""

    def __init__(self, items: Iterable[tuple[int, ChatRequest]]) -> None:
        self._items = iter(items)
        self.closed = False

    async def take(self) -> tuple[int, ChatRequest] | None:
        """Return the next request; None if there is none left."""
        return None if self.closed else next(self._items, None)

    def close(self) -> None:
        """Drop the requests that are left."""
        self.closed = True


class RequestQueue:
    """Requests that arrive while others are running; all methods belong to the event loop's thread."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[int, ChatRequest] | None] = asyncio.Queue()
        self.closed = False

    def put(self, index: int, request: ChatRequest) -> None:
        """Add a request."""
        self._queue.put_nowait((index, request))

    def end(self) -> None:
        """Declare that no more requests will come; those that wait are still run."""
        self._queue.put_nowait(None)

    async def take(self) -> tuple[int, ChatRequest] | None:
        """Wait for the next request and return it; None after the end."""
        item = await self._queue.get()
        if item is None:
            self.end()  # the other workers wait for the end, too
        return item

    def close(self) -> None:
        """Drop the requests that wait, and end."""
        self.closed = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self.end()


class FailureBudget:
    """Counts failed requests and raises once there are too many."""

    def __init__(self, label: str, total: int, max_failure_rate: float) -> None:
        self._label = label
        self._total = total
        self._max_failure_rate = max_failure_rate
        # Rounding to six digits first keeps 0.07 * 100 = 7.000000000000001 from being rounded up to 8.
        self._allowed = ceil(round(max_failure_rate * total, 6))
        self._reasons: Counter[str] = Counter()
        self._finished = 0
        self._answered = 0
        self._error: TooManyFailures | None = None

    def count(self, result: RequestResult[T]) -> None:
        """Count a result.

        Raises:
            TooManyFailures: If it is one failure too many, or comes later. Every result updates the message of the
                error, so that its numbers are true once the calls in flight have finished.
        """
        self._finished += 1
        self._answered += result.completion is not None
        if result.failure is not None:
            self._reasons[result.failure] += 1
        if self._error is None and self._reasons.total() > self._allowed:
            self._error = TooManyFailures()
        if self._error is not None:
            self._error.args = (self._message(),)
            raise self._error

    def _message(self) -> str:
        table = "\n".join(f"  {count:6d}  {reason}" for reason, count in self._reasons.most_common(MAX_REASONS))
        return (
            f"{self._label}: {self._reasons.total()} of {self._total} rows failed, more than the allowed "
            f"{self._max_failure_rate:.1%}:\n{table}\n"
            f"{self._finished} of {self._total} rows were run: {self._answered} have a completion, which is cached, "
            f"and {self._finished - self._answered} have none. The other {self._total - self._finished} were given up. "
            "Fix the cause, or increase max_failure_rate of this role, then run the same command again."
        )


def print_interrupted(label: str, done: int, total: int) -> None:
    """Print how far the requests came before Ctrl-C."""
    console.print(f"{label}: stopped after {done} of {total} requests; their completions are cached.")


async def _drain(
    workers: Sequence[asyncio.Task[None]], pending: _PendingRequests | RequestQueue, grace_s: float
) -> None:
    """Send no new request, give calls in flight `grace_s` seconds to finish, then cancel them."""
    pending.close()
    await asyncio.wait(workers, timeout=grace_s)
    for worker in workers:
        worker.cancel()
    # Wait until the cancelled calls have released their connections.
    await asyncio.gather(*workers, return_exceptions=True)


async def _run_request(chat: ChatModel, request: ChatRequest, parse: Callable[[Completion], T]) -> RequestResult[T]:
    """Run one request, and once more if its completion cannot be parsed."""
    completion = None
    try:
        completion = await chat.complete(request)
        try:
            return RequestResult(parse(completion), completion.text, completion=completion)
        except ReplyError as error:
            request = _retry_request(request, completion, error)
            completion = await chat.complete(request)
            return RequestResult(parse(completion), completion.text, completion=completion)
    except ReplyError as error:
        assert completion is not None, "only a completion can be unreadable"
        kind = FailureKind.CUT if _is_cut(completion) else FailureKind.UNREADABLE
        failure = CallError(kind, str(error), raw=completion.text)
    except CallError as error:
        failure = CallError(error.kind, error.detail, raw=error.raw or (completion.text if completion else ""))
    chat.record_failed(request, failure)
    return RequestResult(None, failure.raw, str(failure), completion)


def _retry_request(request: ChatRequest, completion: Completion, error: ReplyError) -> ChatRequest:
    """Return the request with twice the length limit if the completion was cut; else with an error message."""
    if _is_cut(completion):
        return request.model_copy(update={"max_tokens": 2 * request.max_tokens})
    # This text is part of the cache key of paid completions: do not rephrase it.
    complaint = f"That reply cannot be used: {error} Reply again, exactly in the form asked for."
    said = bound_echo(completion.text, request.max_tokens)
    turns = (Message(role="assistant", content=said), Message(role="user", content=complaint))
    return request.model_copy(update={"messages": (*request.messages, *turns)})


def _is_cut(completion: Completion) -> bool:
    return completion.finish_reason == "length"
