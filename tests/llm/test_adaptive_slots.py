"""Adapted number of calls in flight: endpoints of known capacity, in simulated time and over HTTP."""

import asyncio
import heapq
from collections.abc import Iterator
from random import Random

import pytest
from loopback import Server, request, status, text
from serving import serving

from tapir_exp.config import LLMConfig
from tapir_exp.core import events
from tapir_exp.llm import adaptive_slots
from tapir_exp.llm.adaptive_slots import AdaptiveSlots, open_slots
from tapir_exp.llm.call_store import CallStore
from tapir_exp.llm.client import Client
from tapir_exp.llm.executor import run_requests
from tapir_exp.llm.failures import FailureKind
from tapir_exp.llm.slots import Slot, Slots

LATENCY_S = 2.0
NO_LIMIT = 10**6


@pytest.fixture(autouse=True)
def nothing_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive_slots, "_found", {})


def ignore(limit: int, reason: str) -> None:
    pass


def simulate(
    slots: AdaptiveSlots, calls: int, *, capacity: int = NO_LIMIT, allowed: int = NO_LIMIT, used: int = NO_LIMIT
) -> int:
    """Send calls to an endpoint, and return how many it refused.

    Args:
        slots: The slots that are adapted.
        calls: Number of calls.
        capacity: Calls that the endpoint works on at once; further ones wait.
        allowed: Calls at once from which on it refuses one.
        used: Calls that the caller has at once at most.
    """
    random, now, refused = Random(0), 0.0, 0
    flying: list[tuple[float, float]] = []
    for _ in range(calls):
        while slots.taken >= min(slots.limit, used):
            now, started = heapq.heappop(flying)
            slots.note_reply(started, now)
            slots.taken -= 1
        slots.taken += 1
        if slots.taken > allowed:
            refused += 1
            slots.note_failure(FailureKind.RATE_LIMIT, now, now + 0.1)
            slots.taken -= 1
            continue
        # With fewer free places than calls, each takes proportionally longer.
        seconds = LATENCY_S * random.uniform(0.7, 1.4) * max(1.0, slots.taken / capacity)
        heapq.heappush(flying, (now + seconds, now))
    return refused


@pytest.mark.parametrize(
    ("capacity", "least", "most"),
    [(8, 8, 20), (32, 32, 80), (100, 100, 250), (10**6, 256, 256)],
)
def test_limit_follows_capacity(capacity: int, least: int, most: int) -> None:
    slots = AdaptiveSlots(256, ignore)
    simulate(slots, 6000, capacity=capacity)
    assert least <= slots.limit <= most


@pytest.mark.parametrize("allowed", [3, 20, 90])
def test_limit_stays_near_what_is_allowed(allowed: int) -> None:
    slots = AdaptiveSlots(256, ignore)
    refused = simulate(slots, 6000, allowed=allowed)
    assert allowed / 2 - 1 <= slots.limit <= allowed + 2
    assert slots.reason == "rate limit"
    assert refused < 6000 * (0.2 if allowed == 3 else 0.02)


def test_limit_does_not_grow_beyond_what_the_caller_uses() -> None:
    slots = AdaptiveSlots(256, ignore)
    simulate(slots, 3000, used=10)
    assert slots.limit <= 16


@pytest.mark.parametrize("most", [1, 3, 256])
def test_limit_never_leaves_its_bounds(most: int) -> None:
    slots, random = AdaptiveSlots(most, ignore), Random(1)
    for number in range(3000):
        slots.taken = slots.limit
        if random.random() < 0.01:
            slots.note_failure(random.choice(list(FailureKind)), number, number + 1)
        else:
            slots.note_reply(number, number + random.expovariate(1.0))
        assert 1 <= slots.limit <= most


def test_failures_of_calls_in_flight_together_count_once() -> None:
    told: list[tuple[int, str]] = []
    slots = AdaptiveSlots(256, lambda *told_now: told.append(told_now), first=64)
    for _ in range(40):
        slots.note_failure(FailureKind.TIMEOUT, 0.0, 1.0)
    slots.note_failure(FailureKind.REFUSED, 2.0, 3.0)
    assert told == [(32, "time-out")]


def test_next_client_starts_with_what_was_found() -> None:
    config = LLMConfig(model="openai/m", concurrency="auto")
    assert open_slots(LLMConfig(model="openai/m"), ignore) is None
    first = open_slots(config, ignore)
    assert first is not None
    assert first.limit == 4
    simulate(first, 1000, allowed=30)
    second = open_slots(config, ignore)
    assert second is not None
    assert (second.limit, second.reason) == (first.limit, "rate limit")


def test_waiting_calls_get_slots_in_order_when_the_limit_grows() -> None:
    taken: list[int] = []

    async def take_all(slots: Slots) -> None:
        async def take(number: int) -> None:
            await Slot(slots).take()
            taken.append(number)

        tasks = [asyncio.ensure_future(take(number)) for number in range(6)]
        await asyncio.sleep(0)
        assert taken == [0, 1]
        tasks[2].cancel()
        slots.limit = 4
        slots.wake()
        await asyncio.sleep(0.01)
        assert taken == [0, 1, 3, 4]
        slots.release()
        await asyncio.sleep(0.01)
        assert taken == [0, 1, 3, 4, 5]

    asyncio.run(take_all(Slots(2)))


@pytest.fixture
def busy_server() -> Iterator[Server]:
    with serving(Server()) as server:
        yield server


def test_client_adapts_records_and_completes_all(busy_server: Server, call_store: CallStore) -> None:
    names = [str(number) for number in range(120)]
    for name in names[60:64]:
        busy_server.script[name] = [status(503), text(f"re: {name}")]
    recorded: list[events.Event] = []
    config = LLMConfig(model="openai/m", api_base=busy_server.base, concurrency="auto", max_concurrency=16)
    with events.reading_events(recorded.append):
        results = run_requests(
            Client(config, "teacher", call_store),
            [request(name) for name in names],
            lambda completion: completion.text,
            label="rows",
            concurrency=config.most_in_flight,
            max_failure_rate=0.0,
        )
    assert [result.value for result in results] == [f"re: {name}" for name in names]
    limits = [event for event in recorded if event["event"] == events.Kind.CONCURRENCY]
    assert {event["role"] for event in limits} == {"teacher"}
    assert any(event["reason"] == "server error" for event in limits)
    assert limits[-1]["reason"] == ""
    assert 1 <= limits[-1]["limit"] <= 16
