"""Slots in a number that follows what the endpoint can serve: `llm.concurrency=auto`.

Increase is additive and decrease multiplicative, as in TCP. The number doubles while replies come as fast as before,
and then grows by two at a time. It is halved after a refusal for too many calls, a time-out or an error of the server.
It is reduced by a fifth if the median latency is twice the lowest one.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from statistics import median

from tapir_exp.config import LLMConfig
from tapir_exp.llm.chat import ChatRequest
from tapir_exp.llm.failures import CallError, FailureKind
from tapir_exp.llm.parameters import EndpointParameters
from tapir_exp.llm.slots import Slots
from tapir_exp.llm.transport import RawCompletion, Transport

FIRST_LIMIT = 4
"""Calls in flight at the start."""
STEP = 2
"""Increase after each window of calls, once the number has been reduced for the first time."""
MIN_WINDOW = 24
"""Fewest calls for a median latency: lengths of replies differ by a factor of ten."""
OVERLOADED = frozenset({FailureKind.RATE_LIMIT, FailureKind.TIMEOUT, FailureKind.SERVER})
"""Failures that require fewer calls."""
FAILURE_FACTOR, LATENCY_FACTOR = 0.5, 0.8
"""What is left of the number after a failure, and after a rise of the latency."""
SLOW = 2.0
"""Ratio to the lowest median latency from which replies are slow."""
LEAST_SLOW_S = 0.1
"""Shorter latencies are no sign of load: they depend on what else this machine does."""


Report = Callable[[int, str], None]
"""Takes the number of slots, and the reason if it was reduced."""


class AdaptiveSlots(Slots):
    """Slots with a limit that is adapted after every call. All methods belong to the event loop's thread.

    Attributes:
        reason: Why the limit was reduced last; empty if it never was.
    """

    def __init__(self, most: int, report: Report, first: int = FIRST_LIMIT) -> None:
        """Set up the slots.

        Args:
            most: Largest number of slots.
            report: Called when the number is reduced, and at the end of each stream of calls.
            first: Number of slots at the start.
        """
        super().__init__(min(first, most))
        self._most, self._report = most, report
        self.reason = ""
        self._changed_at = float("-inf")
        self._latencies: list[float] = []
        self._is_full = False
        self._lowest: float | None = None

    def start(self) -> None:
        """Clear the latencies: other requests follow."""
        self._latencies.clear()
        self._lowest = None

    def end(self) -> None:
        """Report the number that was found."""
        self._report(self.limit, "")

    def note_reply(self, started: float, now: float) -> None:
        """Take a reply into account.

        Args:
            started: When the call was sent, in seconds of a monotonic clock.
            now: The present time.
        """
        if started < self._changed_at:  # sent under another limit
            return
        self._latencies.append(now - started)
        self._is_full = self._is_full or self.taken >= self.limit
        if len(self._latencies) < max(MIN_WINDOW, self.limit):
            return
        latency, is_full = median(self._latencies), self._is_full
        lowest = latency if self._lowest is None else min(latency, self._lowest)
        self._lowest = lowest
        if latency > max(SLOW * lowest, LEAST_SLOW_S):
            self._reduce(LATENCY_FACTOR, f"replies take {latency / lowest:.1f} times as long as with fewer calls", now)
        # An unused number of slots is no evidence for a larger one.
        elif is_full and self.limit < self._most:
            self._set(min(self._most, self.limit + (STEP if self.reason else self.limit)), now)
        else:
            self._set(self.limit, now)

    def note_failure(self, kind: FailureKind, started: float, now: float) -> None:
        """Take a failed call into account; of several that were in flight together, the first one counts."""
        if kind in OVERLOADED and started >= self._changed_at:
            self._reduce(FAILURE_FACTOR, str(kind), now)

    def _reduce(self, factor: float, reason: str, now: float) -> None:
        self.reason = reason
        self._set(max(1, int(self.limit * factor)), now)
        self._report(self.limit, reason)

    def _set(self, limit: int, now: float) -> None:
        self.limit, self._changed_at, self._is_full = limit, now, False
        self._latencies.clear()
        self.wake()


_found: dict[tuple[str | None, str], AdaptiveSlots] = {}
"""Slots of each endpoint and model that this process has used last."""


def open_slots(config: LLMConfig, report: Report) -> AdaptiveSlots | None:
    """Return the slots of a model with `concurrency: auto`, which start with what was found before; else None."""
    if not isinstance(config.concurrency, str):
        return None
    account = config.api_base, config.model
    earlier = _found.get(account)
    slots = AdaptiveSlots(config.max_concurrency, report, FIRST_LIMIT if earlier is None else earlier.limit)
    if earlier is not None:
        slots.reason = earlier.reason
    _found[account] = slots
    return slots


class AdaptingTransport:
    """A transport that reports the outcome of each call to the slots."""

    def __init__(self, transport: Transport, slots: AdaptiveSlots) -> None:
        self._transport, self._slots = transport, slots

    @property
    def parameters(self) -> EndpointParameters | None:
        """Return the endpoint's names of parameters, if it has some."""
        return getattr(self._transport, "parameters", None)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Open the connections of the transport."""
        self._slots.start()
        async with self._transport.connected():
            try:
                yield
            finally:
                self._slots.end()

    async def send(self, request: ChatRequest) -> RawCompletion:
        """Send a request once. Raises CallError if the call fails."""
        started = time.monotonic()
        try:
            response = await self._transport.send(request)
        except CallError as error:
            self._slots.note_failure(error.kind, started, time.monotonic())
            raise
        self._slots.note_reply(started, time.monotonic())
        return response
