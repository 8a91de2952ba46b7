"""Ask a chat model while the texts that it is asked about are still being written."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Generic, Self, TypeVar

from tapir_exp.core.console import Progress, console
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion
from tapir_exp.llm.executor import GRACE_S, LANDING_S, FailureBudget, RequestQueue, RequestResult, run_request_stream

T = TypeVar("T")
Made = TypeVar("Made")

HandOver = Callable[[int, ChatRequest], None]
"""Gives a request to be asked, with its place among all; from any thread."""


class AskAlong(Generic[T]):
    """As `ask_all`, but the requests come one by one out of other work, which has a thread of its own.

    All asking is done in the thread that enters this, like all else that touches the call_store: while `during` waits for
    the work, and in `finish`. An error of the asking does not stop the work, so that its product can be kept;
    the terminal says so at once, and `finish` raises it.
    """

    def __init__(
        self,
        chat: ChatModel,
        parse: Callable[[Completion], T],
        *,
        label: str,
        total: int,
        concurrency: int,
        max_failure_rate: float,
    ) -> None:
        """total: how many requests there will be at most."""
        self._arrivals = RequestQueue()
        self._ask = partial(run_request_stream, chat, self._arrivals, parse, self._keep, concurrency=concurrency)
        self._outcomes: dict[int, RequestResult[T]] = {}
        self._failures = FailureBudget(label, total, max_failure_rate)
        self._label, self._total = label, total
        self._advance: Callable[[], None] = lambda: None
        self._work: threading.Thread | None = None
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        self._asking = self._runner.get_loop().create_task(self._ask())
        self._asking.add_done_callback(self._tell_failure)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let what is in flight arrive, as `run_request_stream` does; work that still goes on ends when it hands over next."""
        self._over.set()
        self._arrivals.close()
        if isinstance(error, KeyboardInterrupt):
            self._asking.cancel()
        self._runner.run(self._wait(LANDING_S))
        self._runner.close()
        if self._work is not None:
            self._work.join(GRACE_S)

    def during(self, work: Callable[[HandOver], Made]) -> Made:
        """Carry out the work, asking what it hands over, and return what it makes."""
        return self._runner.run(self._carry_out(work))

    def add(self, place: int, request: ChatRequest) -> None:
        """Ask this too, in `finish`: for what no work has handed over."""
        self._arrivals.add(place, request)

    def finish(self) -> dict[int, RequestResult[T]]:
        """Ask the rest; what became of every request, by its place. Raises as `ask_all`."""
        self._arrivals.end()
        with Progress(self._label, self._total) as progress:
            progress.advance(len(self._outcomes))
            self._advance = progress.advance
            try:
                self._runner.run(self._wait())
                self._asking.result()
            except KeyboardInterrupt:
                done = f"{len(self._outcomes)} of {self._total}"
                console.print(f"{self._label}: stopped with {done} done; their replies are kept.")
                raise
        return self._outcomes

    async def _carry_out(self, work: Callable[[HandOver], Made]) -> Made:
        """The work in a thread of its own, one that does not keep a stopped process alive."""
        loop = asyncio.get_running_loop()
        made: Future[Made] = Future()
        made.set_running_or_notify_cancel()

        def hand_over(place: int, request: ChatRequest) -> None:
            if self._over.is_set():
                raise asyncio.CancelledError
            loop.call_soon_threadsafe(self._arrivals.add, place, request)

        def carry_out() -> None:
            try:
                made.set_result(work(hand_over))
            except BaseException as error:
                made.set_exception(error)

        self._work = threading.Thread(target=carry_out, name=self._label, daemon=True)
        self._work.start()
        return await asyncio.wrap_future(made)

    async def _wait(self, seconds: float | None = None) -> None:
        await asyncio.wait([self._asking], timeout=seconds)

    def _keep(self, place: int, outcome: RequestResult[T]) -> None:
        self._outcomes[place] = outcome
        self._advance()
        self._failures.count(outcome)

    def _tell_failure(self, asking: "asyncio.Task[None]") -> None:
        """Say at once that the asking has ended in an error, which is raised later."""
        if not asking.cancelled() and (error := asking.exception()) is not None and not self._over.is_set():
            first_line = str(error).partition("\n")[0]
            console.print(f"{self._label} has stopped: {first_line}", markup=False, soft_wrap=True)
