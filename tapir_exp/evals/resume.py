"""Judge what has no judgment yet, for benchmarks that resume from the files of an earlier evaluation."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from tapir_exp.core.console import console
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion
from tapir_exp.llm.executor import RequestResult, run_requests

NOT_ASKED = "not judged, because evals.ask_judge is false"
"""Failure of an item without a known judgment if no judge is asked."""

Item = TypeVar("Item")
Row = TypeVar("Row")
T = TypeVar("T")


def judge_missing(
    items: Sequence[Item],
    known: Callable[[Item], Row | None],
    request: Callable[[Item], ChatRequest],
    parse: Callable[[Completion], T],
    to_row: Callable[[Item, RequestResult[T]], Row],
    chat: ChatModel | None,
    *,
    label: str,
    concurrency: int,
    max_failure_rate: float,
) -> list[Row]:
    """Return one judgment for each item, in order. Only items without a known judgment are sent to the judge.

    How many judgments are reused is printed before the first call.

    Args:
        items: What to judge.
        known: Returns the judgment of an item that needs no call, or None.
        request: Builds the request for an item.
        parse: Returns the value of a completion, or raises ReplyError.
        to_row: Builds the judgment of an item from the result of its request, failed or not.
        chat: The judge; None makes no calls, and the result of each missing item is a failure.
        label: Name of the progress bar and of error messages.
        concurrency: Number of calls in flight.
        max_failure_rate: Share of the calls that may fail.

    Raises:
        TooManyFailures: If more calls fail. The share is that of the calls, so known judgments do not dilute it.
    """
    rows = {index: row for index, item in enumerate(items) if (row := known(item)) is not None}
    missing = [index for index in range(len(items)) if index not in rows]
    left = f"{len(missing)} are missing" + (", and no judge is asked" if chat is None else "")
    console.print(f"{label}: reused {len(rows)} of {len(items)} judgments; {left}", soft_wrap=True)
    if chat is None:
        results = [RequestResult[T](None, "", NOT_ASKED) for _ in missing]
    else:
        requests = [request(items[index]) for index in missing]
        results = run_requests(
            chat, requests, parse, label=label, concurrency=concurrency, max_failure_rate=max_failure_rate
        )
    rows |= {index: to_row(items[index], result) for index, result in zip(missing, results, strict=True)}
    return [rows[index] for index in range(len(items))]
