"""Ask a chat model many things at once, and read each reply strictly."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Generic, TypeVar

from tapir_exp.console import Progress
from tapir_exp.errors import ReplyError, TooManyFailures
from tapir_exp.llm.chat import CallError, ChatModel, ChatRequest, Message, Reply

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of one request: a value, or None and the failure that says why; `raw` is the last reply."""

    value: T | None
    raw: str
    failure: str | None = None


def ask_all(
    chat: ChatModel,
    requests: Sequence[ChatRequest],
    parse: Callable[[Reply], T],
    *,
    label: str,
    concurrency: int,
    max_failed: float,
) -> list[Outcome[T]]:
    """Ask every request, in order, with `concurrency` in flight; a reply that `parse` refuses is asked for once more.

    Raises TooManyFailures, with a table of reasons, where more than the share `max_failed` of them brought nothing;
    the share is rounded up to a whole request, so that one failure in a handful stops nothing.
    """
    try:
        outcomes = asyncio.run(_ask_all(chat, requests, parse, label, concurrency))
    except ExceptionGroup as group:  # a caller wants the cause, not the workers that it took down together
        raise group.exceptions[0] from None
    _refuse_too_many_failures(outcomes, label, max_failed)
    return outcomes


async def _ask_all(
    chat: ChatModel, requests: Sequence[ChatRequest], parse: Callable[[Reply], T], label: str, concurrency: int
) -> list[Outcome[T]]:
    outcomes: list[Outcome[T] | None] = [None] * len(requests)
    waiting = iter(enumerate(requests))
    with Progress(label, total=len(requests)) as progress:

        async def work() -> None:
            for place, request in waiting:
                outcomes[place] = await _ask(chat, request, parse)
                progress.advance()

        async with asyncio.TaskGroup() as workers:
            for _ in range(min(concurrency, len(requests))):
                workers.create_task(work())
    return [outcome for outcome in outcomes if outcome is not None]


async def _ask(chat: ChatModel, request: ChatRequest, parse: Callable[[Reply], T]) -> Outcome[T]:
    raw = ""
    try:
        reply = await chat.reply(request)
        raw = reply.text
        try:
            return Outcome(parse(reply), raw)
        except ReplyError as refusal:
            reply = await chat.reply(_again(request, reply, refusal))
            raw = reply.text
            return Outcome(parse(reply), raw)
    except ReplyError as refusal:
        return Outcome(None, raw, f"unreadable reply: {refusal}")
    except CallError as error:
        return Outcome(None, raw, str(error))


def _again(request: ChatRequest, reply: Reply, refusal: ReplyError) -> ChatRequest:
    """The same conversation, with the refused reply and what was wrong with it."""
    complaint = f"That reply cannot be used: {refusal} Reply again, exactly in the form asked for."
    turns = (Message(role="assistant", content=reply.text), Message(role="user", content=complaint))
    return request.model_copy(update={"messages": (*request.messages, *turns)})


def _refuse_too_many_failures(outcomes: Sequence[Outcome[T]], label: str, max_failed: float) -> None:
    failures = [outcome.failure for outcome in outcomes if outcome.failure is not None]
    if len(failures) <= ceil(round(max_failed * len(outcomes), 6)):
        return
    reasons = sorted({reason: failures.count(reason) for reason in failures}.items(), key=lambda item: -item[1])
    table = "\n".join(f"  {count:6d}  {reason}" for reason, count in reasons[:20])
    raise TooManyFailures(
        f"{label}: {len(failures)} of {len(outcomes)} rows failed, more than the allowed {max_failed:.1%}:\n{table}\n"
        "Mend the cause, or raise max_failed of this role; what was answered is cached."
    )
