"""Rows and calls of the rounds: what is expected, and a bound, before any student is trained.

The expected numbers follow the plan of each round, with a pool that grows by the rows that the teacher is expected to
write. Task types and hard rows of the pool are assumptions until the run has labelled and judged its seeds.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, floor

from tapir_exp.config import Config, CurriculumConfig, GapRows, SeedSource
from tapir_exp.core.records import Subset
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.curriculum.sampling import (
    MOST_PAIRS,
    Kind,
    PlanSettings,
    alpha_for_round,
    count_rows,
    part_of_round,
)
from tapir_exp.distillation.curriculum.task_mix import TOLERANCE, Shares, target_shares
from tapir_exp.lab.world import WORLDS
from tapir_exp.pipeline.request_sizes import Assumptions

HARD_AMONG_NEW = 0.5
"""Share of hard rows among the new rows of a request for hard ones, by their measured gap."""
STILL_HARD = 0.5
"""Share of the hard rows of a mix that are hard after its fit, if the student is judged on its mix."""
_PER_MILLE = (
    *(49, 17, 68, 12, 117, 37, 93, 12, 6, 10, 23, 21, 49, 23, 8, 5),
    *(9, 39, 21, 14, 12, 12, 32, 11, 22, 9, 12, 24, 39, 71, 89, 35),
)
"""Task types of 9,219 rows of Alpaca in the order of `TaskType`, as MiniLM labels them (benchmarks/README.md)."""
ALPACA_SHARES: Shares = {task: rows / sum(_PER_MILLE) for task, rows in zip(TaskType, _PER_MILLE, strict=True)}


@dataclass(frozen=True)
class PoolShape:
    """Composition of the seeds.

    Attributes:
        tasks: Share of each task type.
        hard: Share of hard rows.
    """

    tasks: Shares
    hard: float


@dataclass(frozen=True)
class Count:
    """A number: what is expected, and a bound."""

    expected: float
    most: float

    def __mul__(self, factor: float) -> "Count":
        return Count(self.expected * factor, self.most * factor)


def exactly(number: float) -> Count:
    """Return a number that the configuration determines."""
    return Count(number, number)


@dataclass(frozen=True)
class RoundCounts:
    """Rows and calls of a round.

    Attributes:
        calls: Requests for new pairs.
        pairs: Expected pairs of such a request.
        labelled: Pairs that the classifier is asked about.
        rated: Instructions whose complexity is rated.
        measured: New rows on which the student of the round before is judged.
        mix: Rows of the mix.
        refined: Responses that are refined, without those of an earlier round.
    """

    calls: Count
    pairs: float
    labelled: Count
    rated: Count
    measured: Count
    mix: Count
    refined: Count


def assumed_pool(config: Config) -> PoolShape:
    """Return the composition of seeds that are not labelled and judged yet; under mfd, as many are hard as TAPIR's."""
    tasks = ALPACA_SHARES
    if config.seeds.source is SeedSource.lab:
        world = WORLDS[config.lab.world]
        shares: defaultdict[TaskType, float] = defaultdict(float)
        for family in world.families:
            shares[family.task] += world.shares[family.name]
        tasks = shares
    return PoolShape(tasks, config.curriculum.hard_fraction)


def count_rounds(config: Config, seeds: int, pool: PoolShape, assumed: Assumptions) -> list[RoundCounts]:
    """Return the rows and calls of every round.

    Args:
        config: The configuration, with every size as a number.
        seeds: Number of seeds.
        pool: Their composition.
        assumed: Assumptions.
    """
    simulation = _Simulation(config, seeds, pool, assumed)
    return [simulation.run_round(number) for number in range(1, config.curriculum.rounds + 1)]


@dataclass
class _Expected:
    """Expected work of the teacher in a round."""

    calls: float = 0.0
    proposed: float = 0.0
    written: defaultdict[Kind, float] = field(default_factory=lambda: defaultdict(float))


class _Simulation:
    """The pool of a run, round after round, in expected rows."""

    def __init__(self, config: Config, seeds: int, pool: PoolShape, assumed: Assumptions) -> None:
        self._config, self._pool, self._assumed = config, pool, assumed
        self._held: defaultdict[Kind, float] = defaultdict(float)
        self._refined: defaultdict[TaskType, float] = defaultdict(float)
        for task, share in pool.tasks.items():
            for subset, part in ((Subset.HARD, pool.hard), (Subset.REST, 1 - pool.hard)):
                self._held[task, subset] = seeds * share * part

    def run_round(self, number: int) -> RoundCounts:
        """Return the counts of a round, and add its rows to the pool."""
        config, curriculum = self._config, self._config.curriculum
        target = target_shares(config.task_mix.target_distribution, self._pool.tasks)
        settings = PlanSettings.for_round(number, target, curriculum, config.seed)
        counts = count_rows(settings, {kind: round(rows) for kind, rows in self._held.items()})
        requested = {
            kind: count.requested + floor(count.requested * settings.surplus + TOLERANCE)
            for kind, count in counts.items()
            if count.requested
        }
        work = self._expand(requested)
        known = {task: self._known_share(task) for task in TaskType}
        mix = refined = 0.0
        learnt: dict[TaskType, float] = {}
        for (task, subset), count in counts.items():
            new = min(count.requested, work.written[task, subset])
            old = min(count.wanted - new, self._held[task, subset])
            # A row that was refined in an earlier round has a cached completion.
            fresh = new + old * (1 - known[task])
            mix, refined = mix + new + old, refined + fresh
            self._refined[task] += fresh
            if subset is Subset.HARD and curriculum.gap_rows is GapRows.trained:
                learnt[task] = (1 - STILL_HARD) * (new + old)
        for kind, rows in work.written.items():
            self._held[kind] += rows
        for task, rows in learnt.items():
            self._held[task, Subset.HARD] -= rows
            self._held[task, Subset.REST] += rows
        return self._bounded(number, work, mix, refined)

    def _known_share(self, task: TaskType) -> float:
        """Return the share of the pool's rows of a type whose refined response is cached."""
        held = sum(self._held[task, subset] for subset in Subset)
        return min(1.0, self._refined[task] / held) if held else 0.0

    def _expand(self, requested: Mapping[Kind, int]) -> _Expected:
        """Return the expected calls and accepted rows of all passes."""
        teacher, work = self._config.teacher, _Expected()
        lacking = {kind: float(count) for kind, count in requested.items()}
        replaces_easy = self._config.curriculum.drop_easy_expansions
        for _ in range(teacher.max_expansion_passes):
            for kind, rows in lacking.items():
                # Few rows of a request are lacking in part of all cases only, so the call for them is expected in part.
                calls = min(rows, ceil(rows / teacher.num_output_samples))
                accepted = self._assumed.accepted * rows
                useful = HARD_AMONG_NEW if replaces_easy and kind[1] is Subset.HARD else 1.0
                work.calls += calls
                work.proposed += rows
                work.written[kind] += accepted
                lacking[kind] -= useful * accepted
        return work

    def _bounded(self, number: int, work: _Expected, mix: float, refined: float) -> RoundCounts:
        """Return the expected counts of a round with their bounds."""
        config, teacher, rows = self._config, self._config.teacher, self._config.curriculum.round_rows
        most_calls = _most_calls(config, number)
        most_pairs = most_calls * MOST_PAIRS * teacher.num_output_samples
        shown = teacher.num_in_context_samples
        labelled = self._assumed.labelled * work.proposed
        written = sum(work.written.values())
        return RoundCounts(
            calls=Count(work.calls, most_calls),
            pairs=work.proposed / work.calls if work.calls else 0.0,
            labelled=Count(labelled, most_pairs),
            rated=Count(written + shown * work.calls, most_pairs + shown * most_calls),
            measured=Count(written, _most_new_rows(config, number)),
            mix=Count(min(mix, rows), rows),
            refined=Count(min(refined, rows), rows),
        )


def _most_requested(curriculum: CurriculumConfig, number: int) -> int:
    """Return the most rows that a pass of a round may request."""
    surplus = curriculum.fresh_surplus if curriculum.gap_rows is GapRows.fresh else 0.0
    rows = floor(curriculum.round_rows * (1 + surplus) + TOLERANCE)
    limit = part_of_round(curriculum.max_new_rows, number, curriculum.rounds)
    return rows if limit is None else min(rows, limit)


def _most_calls(config: Config, number: int) -> int:
    """Return the most requests for new pairs: each pass has requests for every type and subset on its own."""
    rows, pairs = _most_requested(config.curriculum, number), config.teacher.num_output_samples
    target = config.task_mix.target_distribution
    kinds = len(Subset) * (len(TaskType) if target is None else sum(share > 0 for share in target.values()))
    # A type and subset may end with a request for a single row.
    calls = min(rows, (rows + kinds * (pairs - 1)) // pairs)
    return config.teacher.max_expansion_passes * calls


def _most_new_rows(config: Config, number: int) -> int:
    """Return the most rows that may be accepted: passes that replace easy rows request the hard part again."""
    curriculum = config.curriculum
    rows = _most_requested(curriculum, number)
    if not curriculum.drop_easy_expansions:
        return rows
    surplus = 1 + (curriculum.fresh_surplus if curriculum.gap_rows is GapRows.fresh else 0.0)
    alpha = alpha_for_round(number, curriculum.alpha, curriculum.delta_alpha)
    hard = min(rows, ceil(ceil(alpha * curriculum.round_rows) * surplus))
    rows += (config.teacher.max_expansion_passes - 1) * hard
    limit = part_of_round(curriculum.max_new_rows, number, curriculum.rounds)
    return rows if limit is None else min(rows, limit)
