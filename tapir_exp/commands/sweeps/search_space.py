"""The space of a search, from overrides in Hydra's syntax, such as `curriculum.alpha=interval(0.1,0.9)`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from tapir_exp.core.errors import ConfigError

SEARCH = "hydra_plugins.tapir_search.SearchSweeper"
DIGITS = 4
"""Significant digits of a sampled number, which is a part of the name of its job."""
Value = int | float | str
Values = Mapping[str, Value]
"""Values of one job by key."""
NO_SEARCH = "add search=optuna to search in an interval, or list the values: {key}=1,2,3"


@dataclass(frozen=True)
class Parameter:
    """One setting of a search.

    Attributes:
        key: Key or group.
        choices: Values to choose from, as they are written in an override; empty for a number.
        low: Smallest number.
        high: Largest number.
        step: Distance of numbers; None if all are allowed.
        log: Whether the logarithm of a number is sampled.
        whole: Whether a number is an integer.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    whole: bool = False

    @property
    def text(self) -> str:
        """Return the values in words."""
        if self.choices:
            return ", ".join(self.choices)
        kind = "integers" if self.whole else "numbers"
        step = f" in steps of {self.step:g}" if self.step is not None and self.step != 1 else ""
        return f"{kind} from {self.low:g} to {self.high:g}{step}{', logarithmic' if self.log else ''}"

    @property
    def ends(self) -> tuple[Value, ...]:
        """Return values that must be valid if all are: the choices, or the smallest and the largest number."""
        return self.choices or (self.rounded(self.low), self.rounded(self.high))

    def rounded(self, value: Value) -> Value:
        """Return a value as its job gets it."""
        if isinstance(value, str):
            return value
        if self.whole:
            return int(value)
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def sample(self, rng: Random) -> Value:
        """Return a random value."""
        if self.choices:
            return rng.choice(self.choices)
        if self.step is not None:
            value = self.low + self.step * rng.randint(0, round((self.high - self.low) / self.step))
        elif self.log:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        return self.rounded(value)


@dataclass(frozen=True)
class SearchSpace:
    """What a search varies, and what all of its jobs share.

    Attributes:
        fixed: Overrides of all jobs.
        parameters: What varies.
    """

    fixed: tuple[str, ...]
    parameters: tuple[Parameter, ...]

    @classmethod
    def parse(cls, overrides: Sequence[str]) -> "SearchSpace":
        """Read a space; of several overrides of one key, the last one counts.

        Raises:
            ConfigError: With every override that cannot be searched.
        """
        fixed: dict[str, str] = {}
        parameters: dict[str, Parameter] = {}
        problems = []
        for override in _parsed(overrides):
            key, line = override.get_key_element(), str(override.input_line)
            fixed.pop(key, None)
            parameters.pop(key, None)
            if not override.is_sweep_override():
                fixed[key] = line
            elif problem := _problem(override):
                problems.append(f"{line.partition('=')[0]} = {line.partition('=')[2]}: {problem}")
            else:
                parameters[key] = _parameter(key, override)
        if not parameters and not problems:
            problems.append("search: expected at least one setting to search, such as curriculum.delta=range(0,5)")
        if problems:
            raise ConfigError(problems)
        return cls(tuple(fixed.values()), tuple(parameters.values()))

    def job(self, values: Values) -> list[str]:
        """Return the overrides of a job."""
        return [*self.fixed, *(f"{each.key}={each.rounded(values[each.key])}" for each in self.parameters)]

    def corners(self) -> Iterator[list[str]]:
        """Yield jobs with every choice, and with the smallest and the largest number of each setting."""
        for index in range(max(len(each.ends) for each in self.parameters)):
            yield self.job({each.key: each.ends[index % len(each.ends)] for each in self.parameters})

    def sample(self, jobs: int, seed: int) -> list[list[str]]:
        """Return jobs with random values, to estimate what a search costs."""
        rng = Random(seed)
        return [self.job({each.key: each.sample(rng) for each in self.parameters}) for _ in range(jobs)]

    def described(self) -> dict[str, str]:
        """Return the values of each setting in words; equal spaces have equal descriptions."""
        return {each.key: each.text for each in self.parameters}


def intervals(overrides: Sequence[str]) -> list[str]:
    """Return the mistakes of a sweep without a search that has an interval."""
    try:
        found = [each for each in _parsed(overrides) if each.is_interval_sweep()]
    except ConfigError:  # the composition of the jobs reports it, with its file
        return []
    return [f"{str(each.input_line).replace('=', ' = ', 1)}: expected a list of values; "
            + NO_SEARCH.format(key=each.key_or_group) for each in found]  # fmt: skip


def _parsed(overrides: Sequence[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError([" ".join(str(error).split("See https")[0].split())]) from error


def _problem(override: Override) -> str:
    """Return what prevents the search of an override; empty if nothing does."""
    value = override.value()
    if override.key_or_group == "seed":
        return "expected one seed; a search would take the luckiest one for the best"
    if isinstance(value, IntervalSweep):
        low, high = float(value.start or 0), float(value.end or 0)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            return "expected an interval from a smaller to a larger number"
        if "log" in value.tags and low <= 0:
            return "expected positive numbers in a logarithmic interval"
        return f"expected no tags but log, got {', '.join(sorted(value.tags))}" if value.tags - {"log"} else ""
    if isinstance(value, RangeSweep):
        return "" if len(list(override.sweep_iterator())) > 1 else "expected a range with more than one number"
    return ""


def _parameter(key: str, override: Override) -> Parameter:
    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        step = 1.0 if whole and "log" not in value.tags else None
        return Parameter(key, (), value.start, value.end, step, log="log" in value.tags, whole=whole)
    if isinstance(value, RangeSweep):
        numbers = sorted(float(text) for text in override.sweep_string_iterator())
        whole = all(isinstance(part, int) for part in (value.start, value.stop, value.step))
        return Parameter(key, (), numbers[0], numbers[-1], abs(float(value.step)), whole=whole)
    return Parameter(key, tuple(dict.fromkeys(override.sweep_string_iterator())))
