"""Several chat models behind the interface of one: a request names the model that it is for."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion
from tapir_exp.llm.failures import CallError
from tapir_exp.llm.ledger import Spend
from tapir_exp.llm.streaming import StreamableModel


class MemberRequest(ChatRequest):
    """A request to one model of a panel. The model gets a plain request, so its completions have their usual keys.

    Attributes:
        member: Number of the model.
    """

    member: int


def for_member(request: ChatRequest, member: int) -> ChatRequest:
    """Return a request to a model of a panel; the first model also gets plain requests."""
    return MemberRequest(**_fields(request), member=member) if member else request


@dataclass(frozen=True)
class Member:
    """A model of a panel.

    Attributes:
        model: The model.
        concurrency: Calls in flight at once.
        batch: Whether its calls are sent in batches, for which it needs all requests beforehand.
    """

    model: StreamableModel
    concurrency: int
    batch: bool = False


class Panel:
    """Several models behind the interface of one."""

    def __init__(self, members: Sequence[Member]) -> None:
        """Set up the panel; requests without a member are for the first one."""
        self._members = tuple(members)
        self._limits: list[asyncio.Semaphore] = []

    def identity(self) -> dict[str, Any]:
        """Return what changes completions: the identity of the first model, and those of the others."""
        first, *others = (member.model.identity() for member in self._members)
        return {**first, "panel": others}

    def count_cached(self, requests: Sequence[ChatRequest]) -> int:
        """Return the number of requests that cost nothing because their completions are cached."""
        return sum(
            member.model.count_cached(_requests_of(number, requests)) for number, member in enumerate(self._members)
        )

    @asynccontextmanager
    async def connected(self, requests: Sequence[ChatRequest] = ()) -> AsyncIterator[None]:
        """Open the connections of all models for one event loop."""
        self._limits = [asyncio.Semaphore(member.concurrency) for member in self._members]
        async with AsyncExitStack() as stack:
            for number, member in enumerate(self._members):
                known = _requests_of(number, requests) if member.batch else ()
                await stack.enter_async_context(member.model.connected(known))
            yield

    async def complete(self, request: ChatRequest) -> Completion:
        """Complete a request by its model. Raises like the model."""
        number = _member_of(request)
        # The executor bounds the calls of all models together.
        async with self._limits[number]:
            return await self._members[number].model.complete(_plain(request))

    def record_failed(self, request: ChatRequest, error: CallError) -> None:
        """Record a request that failed for good, with the reason and the last reply."""
        self._members[_member_of(request)].model.record_failed(_plain(request), error)

    def check(self, *, priced: bool = False) -> None:
        """Check that calls of every model can succeed. Raises like the models."""
        for member in self._members:
            member.model.check(priced=priced)  # type: ignore[attr-defined]  # a Client

    @contextmanager
    def reopened(self, stage: str) -> Iterator[tuple[ChatModel, Mapping[str, Spend]]]:
        """Open the same models again for the current thread; the spend is that of all of them by role."""
        with ExitStack() as stack:
            opened = [stack.enter_context(member.model.reopened(stage)) for member in self._members]
            members = [
                Member(model, member.concurrency, member.batch)  # type: ignore[arg-type]  # a model of the same type
                for member, (model, _) in zip(self._members, opened, strict=True)
            ]
            yield Panel(members), _SummedSpend([spend for _, spend in opened])


class _SummedSpend(Mapping[str, Spend]):
    """Spend by role, summed over models when it is read, since it is complete at the end only."""

    def __init__(self, parts: Sequence[Mapping[str, Spend]]) -> None:
        self._parts = parts

    def __getitem__(self, role: str) -> Spend:
        found = [part[role] for part in self._parts if role in part]
        if not found:
            raise KeyError(role)
        total = found[0]
        for spend in found[1:]:
            total = total + spend
        return total

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(role for part in self._parts for role in part))

    def __len__(self) -> int:
        return len(list(iter(self)))


def _member_of(request: ChatRequest) -> int:
    return request.member if isinstance(request, MemberRequest) else 0


def _fields(request: ChatRequest) -> dict[str, Any]:
    return {name: getattr(request, name) for name in ChatRequest.model_fields}


def _plain(request: ChatRequest) -> ChatRequest:
    return ChatRequest(**_fields(request)) if isinstance(request, MemberRequest) else request


def _requests_of(number: int, requests: Sequence[ChatRequest]) -> list[ChatRequest]:
    return [_plain(request) for request in requests if _member_of(request) == number]
