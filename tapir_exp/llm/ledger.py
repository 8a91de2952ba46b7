"""What was asked of the chat models and what it cost, by role."""

from collections.abc import Mapping
from typing import Self

from tapir_exp.llm.chat import Usage
from tapir_exp.records import Record


class Spend(Record):
    """Calls and their cost over some stretch of a run.

    calls: replies paid for now, unusable ones too; cached: replies had without paying.
    prompt_tokens, completion_tokens, usd: of the paid calls only; usd is None where the price of any is not known.
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0

    def __add__(self, other: Self) -> "Spend":
        return self._combined(other, 1)

    def __sub__(self, earlier: Self) -> "Spend":
        """What came after `earlier`; the cost of no calls is 0, even where the calls before had no known price."""
        if self.calls == earlier.calls:
            return Spend(cached=self.cached - earlier.cached)
        return self._combined(earlier, -1)

    def _combined(self, other: "Spend", sign: int) -> "Spend":
        return Spend(
            calls=self.calls + sign * other.calls,
            cached=self.cached + sign * other.cached,
            prompt_tokens=self.prompt_tokens + sign * other.prompt_tokens,
            completion_tokens=self.completion_tokens + sign * other.completion_tokens,
            usd=None if self.usd is None or other.usd is None else round(self.usd + sign * other.usd, 12),
        )


class Ledger:
    """The spend of a process so far, by role."""

    def __init__(self) -> None:
        self._spent: dict[str, Spend] = {}

    def record_paid(self, role: str, usage: Usage) -> None:
        """Count a reply that was paid for, whether or not it can be used."""
        tokens = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
        self._spent[role] = self.spent(role) + Spend(calls=1, usd=usage.usd, **tokens)

    def record_cached(self, role: str) -> None:
        """Count a reply that cost nothing: it was in the cache, or an identical call was in flight."""
        self._spent[role] = self.spent(role) + Spend(cached=1)

    def spent(self, role: str | None = None) -> Spend:
        """The spend of one role so far, or of all."""
        if role is None:
            return sum(self._spent.values(), Spend())
        return self._spent.get(role, Spend())

    def by_role(self) -> dict[str, Spend]:
        """The spend so far of every role that has asked anything."""
        return dict(self._spent)

    def since(self, earlier: Mapping[str, Spend]) -> dict[str, Spend]:
        """What each role spent after `earlier`, which `by_role` gave; roles that asked nothing are absent."""
        spent = {role: now - earlier.get(role, Spend()) for role, now in self._spent.items()}
        return {role: spend for role, spend in spent.items() if spend.calls or spend.cached}
