"""`search.json`: the trials of a search, as the page of its sweep shows them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SEARCH_FILE = "search.json"
LOSS = "loss"
"""Figure that is better if it is smaller."""


@dataclass(frozen=True)
class TrialLine:
    """One trial.

    Attributes:
        number: Its number.
        state: `complete`, `pruned`, `fail`, `running` or `waiting`.
        values: Its settings.
        figure: Name of its result; empty without one.
        value: Its result; that of the last round if it was pruned.
        seconds: Wall time of its job.
        calls: Paid calls of its job.
        usd: Spend of its job; None if a price is unknown.
        reason: Why it failed.
    """

    number: int
    state: str
    values: Mapping[str, str]
    figure: str
    value: float | None
    seconds: float | None
    calls: int
    usd: float | None
    reason: str

    @property
    def job(self) -> tuple[tuple[str, str], ...]:
        """Return its settings in a form that can be compared."""
        return tuple(sorted(self.values.items()))


@dataclass(frozen=True)
class SearchFile:
    """A search.

    Attributes:
        figure: Name of the result that is searched for.
        total: Number of trials that the search runs towards.
        space: Values of each setting in words.
        importance: Share of each setting in the variance of the results; empty if it is unknown.
        trials: The trials, in the order of their numbers.
    """

    figure: str
    total: int
    space: Mapping[str, str]
    importance: Mapping[str, float]
    trials: Sequence[TrialLine]

    @classmethod
    def load(cls, sweep_dir: Path) -> "SearchFile | None":
        """Read the search of a sweep; None if it is no search, or if the file is damaged."""
        try:
            content = json.loads((sweep_dir / SEARCH_FILE).read_text(encoding="utf-8"))
            trials = [TrialLine(**line) for line in content.pop("trials")]
            return cls(**content, trials=trials)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    @property
    def larger_is_better(self) -> bool:
        """Return whether a larger result is better."""
        return self.figure != LOSS

    @property
    def complete(self) -> list[TrialLine]:
        """Return the trials with a result, each setting once."""
        found = {trial.job: trial for trial in self.trials if trial.state == "complete" and trial.value is not None}
        return list(found.values())

    @property
    def best(self) -> TrialLine | None:
        """Return the trial with the best result, the first of equal ones."""
        return max(self.complete, key=self.merit, default=None)

    def merit(self, trial: TrialLine) -> float:
        """Return a number that is larger for a better result."""
        value = trial.value or 0.0
        return value if self.larger_is_better else -value

    def count(self, *states: str) -> int:
        """Return the number of trials in any of the states."""
        return sum(trial.state in states for trial in self.trials)

    @property
    def cost(self) -> str:
        """Return what the cost of a trial is counted in: USD if anything was paid, else calls, else seconds."""
        if any(trial.usd for trial in self.complete):
            return "USD"
        return "calls" if any(trial.calls for trial in self.complete) else "seconds"

    def cost_of(self, trial: TrialLine) -> float | None:
        """Return the cost of a trial in the unit of `cost`; None if it is unknown."""
        return {"USD": trial.usd, "calls": float(trial.calls), "seconds": trial.seconds}[self.cost]

    @property
    def front(self) -> list[TrialLine]:
        """Return the complete trials that no other one beats in both figure and cost, the cheapest first."""
        priced = [(cost, trial) for trial in self.complete if (cost := self.cost_of(trial)) is not None]
        front: list[TrialLine] = []
        for _, trial in sorted(priced, key=lambda pair: (pair[0], -self.merit(pair[1]), pair[1].number)):
            if not front or self.merit(trial) > self.merit(front[-1]):
                front.append(trial)
        return front
