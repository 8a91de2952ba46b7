"""Run requests to a chat model in a thread of their own, while the caller still produces more of them."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

import uvloop

from tapir_exp.core.console import Progress, console
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion
from tapir_exp.llm.executor import (
    ERROR_GRACE_S,
    INTERRUPT_GRACE_S,
    FailureBudget,
    OnResult,
    RequestQueue,
    RequestResult,
    print_interrupted,
    run_request_stream,
)
from tapir_exp.llm.ledger import Spend

T = TypeVar("T")

MOST_WAITING = 8192
"""Requests that may wait or be in flight before `submit` waits as well."""
WAIT_S = 0.01
"""Seconds between two checks of whether `submit` may go on."""
REFRESH_S = 0.2
"""Seconds between two updates of the progress bar."""


class StreamableModel(ChatModel, Protocol):
    """A chat model that can be opened a second time, for another thread."""

    def reopened(self, stage: str) -> AbstractContextManager[tuple[ChatModel, Mapping[str, Spend]]]:
        """Open the same model, with database connections that belong to the current thread.

        Args:
            stage: The stage that the ledger records its spend under.

        Returns:
            The model, and its spend by role, which is complete when the context ends.
        """
        ...


class StreamingExecutor(AbstractContextManager["StreamingExecutor[Any]"], Generic[T]):
    """Runs requests like `run_requests`, but they are submitted one by one while the caller does other work.

    The first request starts a thread with an event loop and a reopened model. Threads must share neither event loops
    nor SQLite connections. An error ends the requests, not the caller's work: it is printed at once and raised by
    `finish`.

    Attributes:
        spend: Spend by role; complete after `finish`.
    """

    def __init__(
        self,
        model: StreamableModel,
        parse: Callable[[Completion], T],
        *,
        stage: str,
        label: str,
        total: int,
        concurrency: int,
        max_failure_rate: float,
        on_result: OnResult | None = None,
        keep_results: bool = True,
    ) -> None:
        """Take the arguments of `run_requests`, but no requests.

        Args:
            model: The model.
            parse: Returns the value of a completion, or raises ReplyError.
            stage: The stage that the spend is recorded under.
            label: Name of the progress bar and of error messages.
            total: Largest possible number of requests.
            concurrency: Number of calls in flight.
            max_failure_rate: Share of failed requests that is tolerated.
            on_result: Called in the thread with the index and the result of each request; its error ends the requests.
            keep_results: Whether `finish` returns the results; otherwise only `on_result` gets them.
        """
        self.spend: Mapping[str, Spend] = {}
        self._model, self._parse, self._stage = model, parse, stage
        self._label, self._total, self._concurrency = label, total, concurrency
        self._failures = FailureBudget(label, total, max_failure_rate)
        self._notify = on_result
        self._queue = RequestQueue()
        self._results: dict[int, RequestResult[T]] = {}
        self._keep_results, self._submitted, self._done = keep_results, 0, 0
        self._start_lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name=label, daemon=True)
        self._task: asyncio.Task[None] | None = None
        self._error: BaseException | None = None
        self._raises_error = False  # whether the caller waits for an error, so that it need not be printed

    def submit(self, index: int, request: ChatRequest) -> None:
        """Run a request as soon as possible; safe from any thread. Wait if `MOST_WAITING` are not finished yet.

        Args:
            index: Key of the request's result in `finish`.
            request: What to send. It is ignored if an error has ended the requests.
        """
        with self._start_lock:
            if self._loop is None:
                self._loop = uvloop.new_event_loop()
                self._thread.start()
            self._submitted += 1
        # Requests that wait are in memory. Waiting for them here costs no time in all: they have to be finished anyway.
        while self._submitted - self._done > MOST_WAITING and self._thread.is_alive():
            time.sleep(WAIT_S)
        self._call_in_loop(self._queue.put, index, request)

    def finish(self) -> dict[int, RequestResult[T]]:
        """Wait for all results, and return them by index.

        Raises:
            BaseException: The error that ended the requests; see `run_requests`.
        """
        self._raises_error = True
        self._call_in_loop(self._queue.end)
        if self._loop is not None:
            with Progress(self._label, self._total) as progress:
                shown = 0
                while self._thread.is_alive():
                    self._thread.join(REFRESH_S)
                    done = self._done
                    progress.advance(done - shown)
                    shown = done
        if self._error is not None:
            raise self._error
        return self._results

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send no new request, and wait until the calls in flight have finished or their grace period is over."""
        self._raises_error = True
        if self._loop is None:
            return
        interrupted = isinstance(error, KeyboardInterrupt)
        self._call_in_loop(self._queue.close)
        if not interrupted:
            self._thread.join(ERROR_GRACE_S)
        self._call_in_loop(self._cancel)
        self._thread.join(2 * INTERRUPT_GRACE_S)  # a cancelled stream still drains its calls
        if interrupted:
            print_interrupted(self._label, self._done, self._total)

    def _call_in_loop(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in the thread of the event loop; do nothing if the loop has ended or never started."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: an error has ended the requests
                self._loop.call_soon_threadsafe(function, *arguments)

    def _run(self) -> None:
        """Run the requests; the body of the thread."""
        loop = self._loop
        assert loop is not None, "submit makes the loop before it starts the thread"
        try:
            # The model is closed after the loop, because calls that the end of the loop cancels still use it.
            with (
                self._model.reopened(self._stage) as (chat, self.spend),
                asyncio.Runner(loop_factory=lambda: loop) as runner,
            ):
                runner.run(self._run_queue(chat))
        except asyncio.CancelledError:
            pass  # cancelled by `__exit__`, after which the error of the `with` block is raised
        except BaseException as error:
            self._error = error
            if not self._raises_error:
                first_line = str(error).partition("\n")[0]
                console.print(f"{self._label} has stopped: {first_line}", markup=False, soft_wrap=True)
        finally:
            loop.close()

    async def _run_queue(self, chat: ChatModel) -> None:
        self._task = asyncio.current_task()
        await run_request_stream(chat, self._queue, self._parse, self._on_result, concurrency=self._concurrency)

    def _on_result(self, index: int, result: RequestResult[T]) -> None:
        self._done += 1
        if self._keep_results:
            self._results[index] = result
        self._failures.count(result)
        if self._notify is not None:
            self._notify(index, result)

    def _cancel(self) -> None:
        # Without a task nothing is in flight, and the closed queue ends the stream once it starts.
        if self._task is not None:
            self._task.cancel()
