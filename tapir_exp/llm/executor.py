"""Ask a chat model many things at once, and read each reply strictly."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Generic, TypeVar

from tapir_exp.core.console import Progress, console
from tapir_exp.core.errors import ReplyError, TooManyFailures
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion, Message
from tapir_exp.llm.failures import CallError, FailureKind

T = TypeVar("T")

GRACE_S = 3.0
"""How long calls in flight may still arrive once a person has pressed Ctrl-C; what arrives is kept."""
LANDING_S = 60.0
"""How long they may where the run ends for another reason."""
REASONS = 20
"""Rows of the table of reasons."""


@dataclass(frozen=True)
class RequestResult(Generic[T]):
    """What became of one request: a value, or None and the failure that says why; `raw` is the last reply."""

    value: T | None
    raw: str
    failure: str | None = None


def run_requests(
    chat: ChatModel,
    requests: Sequence[ChatRequest],
    parse: Callable[[Completion], T],
    *,
    label: str,
    concurrency: int,
    max_failure_rate: float,
) -> list[RequestResult[T]]:
    """Ask every request, in order, with `concurrency` in flight; a reply that `parse` refuses is asked for once more.

    Raises TooManyFailures, with a table of reasons, as soon as more than the share `max_failure_rate` of them brought
    nothing; the share is rounded up to a whole request, so that one failure in a handful stops nothing.
    KeyboardInterrupt comes through within seconds, after what was in flight has been given time to arrive.
    """
    outcomes: list[RequestResult[T] | None] = [None] * len(requests)
    failures = FailureBudget(label, len(requests), max_failure_rate)
    with Progress(label, total=len(requests)) as progress:

        def keep(place: int, outcome: RequestResult[T]) -> None:
            outcomes[place] = outcome
            progress.advance()
            failures.count(outcome)

        try:
            asyncio.run(run_request_stream(chat, requests, parse, keep, concurrency=concurrency))
        except KeyboardInterrupt:
            done = sum(outcome is not None for outcome in outcomes)
            console.print(f"{label}: stopped with {done} of {len(requests)} done; their replies are kept.")
            raise
    return [outcome for outcome in outcomes if outcome is not None]


async def run_request_stream(
    chat: ChatModel,
    requests: "Sequence[ChatRequest] | Iterable[ChatRequest] | RequestQueue",
    parse: Callable[[Completion], T],
    keep: Callable[[int, RequestResult[T]], None],
    *,
    concurrency: int,
) -> None:
    """Ask with `concurrency` calls in flight, and hand every outcome to `keep`, with its place, as it comes.

    Holds no more than what is in flight, and of `RequestQueue` what waits. An error, of a call or of `keep`, ends the
    asking: nothing new is asked, and what is in flight may land before it is raised.
    """
    waiting = requests if isinstance(requests, RequestQueue) else _PendingRequests(enumerate(requests))

    async def work() -> None:
        while (item := await waiting.take()) is not None:
            place, request = item
            keep(place, await _ask(chat, request, parse))

    async with chat.connected(requests if isinstance(requests, Sequence) else ()):
        workers = [asyncio.create_task(work()) for _ in range(concurrency)]
        try:
            done, _ = await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        except asyncio.CancelledError:
            await _land(workers, waiting, GRACE_S)
            raise
        if any(worker.exception() for worker in done):
            await _land(workers, waiting, LANDING_S)
        for worker in done:
            worker.result()


class _PendingRequests:
    """What is still to be asked; nothing any more once it is closed."""

    def __init__(self, items: Iterable[tuple[int, ChatRequest]]) -> None:
        self._items = iter(items)
        self._closed = False

    async def take(self) -> tuple[int, ChatRequest] | None:
        """The next one; None at the end."""
        return None if self._closed else next(self._items, None)

    def close(self) -> None:
        """Give out nothing more."""
        self._closed = True


class RequestQueue:
    """As `_PendingRequests`, for requests that are still being made: they are added, within the event loop, until `end`."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[tuple[int, ChatRequest] | None] = asyncio.Queue()

    def add(self, place: int, request: ChatRequest) -> None:
        """One more to ask."""
        self._queue.put_nowait((place, request))

    def end(self) -> None:
        """Nothing will be added any more."""
        self._queue.put_nowait(None)

    async def take(self) -> tuple[int, ChatRequest] | None:
        """The next one, waited for; None at the end."""
        item = await self._queue.get()
        if item is None:
            self.end()  # for whoever else takes
        return item

    def close(self) -> None:
        """Give out nothing more."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self.end()


async def _land(
    workers: Sequence[asyncio.Task[None]], waiting: _PendingRequests | RequestQueue, grace_s: float
) -> None:
    """Let the workers end what they are at, for so long; then end them."""
    waiting.close()
    await asyncio.wait(workers, timeout=grace_s)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)


async def _ask(chat: ChatModel, request: ChatRequest, parse: Callable[[Completion], T]) -> RequestResult[T]:
    raw = ""
    try:
        reply = await chat.complete(request)
        raw = reply.text
        try:
            return RequestResult(parse(reply), raw)
        except ReplyError as refusal:
            request = _again(request, reply, refusal)
            reply = await chat.complete(request)
            raw = reply.text
            return RequestResult(parse(reply), raw)
    except ReplyError as refusal:
        error = CallError(FailureKind.CUT if _is_cut(reply) else FailureKind.UNREADABLE, str(refusal), raw=raw)
    except CallError as failure:
        error = CallError(failure.kind, failure.detail, raw=failure.raw or raw)
    chat.record_failed(request, error)
    return RequestResult(None, error.raw, str(error))


def _again(request: ChatRequest, reply: Completion, refusal: ReplyError) -> ChatRequest:
    """The request with twice the room where the reply was cut; else with the reply and what was wrong with it."""
    if _is_cut(reply):
        return request.model_copy(update={"max_tokens": 2 * request.max_tokens})
    complaint = f"That reply cannot be used: {refusal} Reply again, exactly in the form asked for."
    turns = (Message(role="assistant", content=reply.text), Message(role="user", content=complaint))
    return request.model_copy(update={"messages": (*request.messages, *turns)})


def _is_cut(reply: Completion) -> bool:
    return reply.finish_reason == "length"


class FailureBudget:
    """The failed rows so far, and how many are too many."""

    def __init__(self, label: str, total: int, max_failure_rate: float) -> None:
        self._label = label
        self._total = total
        self._max_failed = max_failure_rate
        self._allowed = ceil(round(max_failure_rate * total, 6))
        self._reasons: Counter[str] = Counter()
        self._asked = 0

    def count(self, outcome: RequestResult[T]) -> None:
        """Raises TooManyFailures where this failure is one too many."""
        self._asked += 1
        if outcome.failure is None:
            return
        self._reasons[outcome.failure] += 1
        if self._reasons.total() > self._allowed:
            raise TooManyFailures(self._table())

    def _table(self) -> str:
        reasons = self._reasons.most_common(REASONS)
        table = "\n".join(f"  {count:6d}  {reason}" for reason, count in reasons)
        return (
            f"{self._label}: {self._reasons.total()} of {self._total} rows failed, more than the allowed "
            f"{self._max_failed:.1%}:\n{table}\n"
            f"{self._asked} rows were asked; what was answered is kept. Mend the cause, or raise max_failure_rate of this "
            "role, and run the same command again."
        )
