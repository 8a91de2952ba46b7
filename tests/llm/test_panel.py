"""Several chat models behind one interface: each gets its own requests, within its own limit of calls."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from fakes import ScriptedChat

from tapir_exp.llm.chat import ChatRequest, Completion, Message
from tapir_exp.llm.executor import run_requests
from tapir_exp.llm.ledger import Spend
from tapir_exp.llm.panel import Member, Panel, for_member


class Counting(ScriptedChat):
    """A model that counts its calls in flight, and what it was connected for."""

    def __init__(self, name: str, usd: float | None = 1.0) -> None:
        super().__init__(lambda request: name)
        self.name, self.usd = name, usd
        self.in_flight = self.most = 0
        self.known: list[Sequence[ChatRequest]] = []

    def identity(self) -> dict[str, Any]:
        return {"model": self.name}

    def count_cached(self, requests: Sequence[ChatRequest]) -> int:
        return len(requests)

    def connected(self, requests: Sequence[ChatRequest]) -> Any:
        self.known.append(requests)
        return super().connected(requests)

    async def complete(self, request: ChatRequest) -> Completion:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(0.001)
        self.in_flight -= 1
        return await super().complete(request)

    @contextmanager
    def reopened(self, stage: str) -> Iterator[tuple[ScriptedChat, Mapping[str, Spend]]]:
        yield self, {"judge": Spend(calls=2, usd=self.usd)}


def request(number: int) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=str(number)),), max_tokens=1)


def test_panel_sends_each_request_to_its_model_within_its_limit() -> None:
    first, second = Counting("a"), Counting("b")
    panel = Panel([Member(first, 1), Member(second, 3, batch=True)])
    requests = [for_member(request(number), number % 2) for number in range(12)]
    results = run_requests(panel, requests, lambda c: c.text, label="", concurrency=4, max_failure_rate=0.0)
    assert [result.value for result in results] == ["a", "b"] * 6
    assert (first.most, 1 < second.most <= 3) == (1, True)
    # A model that sends batches knows all of its requests beforehand.
    assert (first.known, second.known) == ([()], [[request(number) for number in range(1, 12, 2)]])
    assert panel.count_cached(requests) == 12


def test_panel_is_identified_by_all_models() -> None:
    one, two = (Panel([Member(Counting("a"), 1), Member(Counting(name), 1)]) for name in "bc")
    assert one.identity() == {"model": "a", "panel": [{"model": "b"}]}
    assert one.identity() != two.identity()


def test_panel_opened_again_sums_the_spend() -> None:
    with Panel([Member(Counting("a"), 1), Member(Counting("b"), 1)]).reopened("verdicts") as (_, spend):
        assert dict(spend) == {"judge": Spend(calls=4, usd=2.0)}
    with Panel([Member(Counting("a"), 1), Member(Counting("b", None), 1)]).reopened("verdicts") as (_, spend):
        assert spend["judge"].usd is None
        assert "teacher" not in spend
