"""The plan of a round: the hard fraction, the rows drawn from the pool, the rows requested of the teacher. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from math import floor
from typing import Any

from tapir_exp.config import CurriculumConfig, Difficulty, GapRows
from tapir_exp.core.records import Example, Quota, Subset, TrainingExample
from tapir_exp.core.seeding import derive_uniform
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.curriculum.task_mix import TOLERANCE, Shares, apportion, apportion_parts

Kind = tuple[TaskType, Subset]
"""A part of a mix: one task type in one subset."""
MOST_PAIRS = 2
"""New pairs that are read of a reply, relative to `teacher.num_output_samples`. Otherwise a teacher that writes pairs
up to its length limit would cause many paid calls of the classifier. Ours."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pool row that a plan may draw.

    Attributes:
        example: The row.
        task: Its task type.
        difficulty: Its latest difficulty.
        subset: The part of the mix that it belongs to.
        weight: Positive; how likely the row is drawn among the rows of its task type and subset.
        confidence: Probability of the task type by the classifier; None if it gives none.
    """

    example: Example
    task: TaskType
    difficulty: float
    subset: Subset
    weight: float = 1.0
    confidence: float | None = None

    def to_training_example(self) -> TrainingExample:
        """Return the candidate as a row of the mix."""
        return TrainingExample.from_example(self.example, self.task, self.subset, self.difficulty)


# Requests compare by identity: a comparison of all examples would be slow, and two equal requests are two draws.
@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """New rows requested of the teacher: `count` rows of one task type, about as difficult as the examples.

    Attributes:
        task: Task type of the new rows.
        subset: The part of the mix that lacks them.
        count: Rows that are missing.
        examples: Rows of the same task type, of the same subset if it has any. Empty if the pool lacks the type.
    """

    task: TaskType
    subset: Subset
    count: int
    examples: tuple[Candidate, ...]


@dataclass(frozen=True)
class RoundPlan:
    """The contents of a round's mix.

    Attributes:
        drawn: Rows drawn from the pool.
        requests: Requests for new rows.
        quotas: Rows wanted, drawn and requested of each task type and subset.
        spare: Rows of requested types and subsets that were not drawn, in the order of the draw. They replace rows that
            the teacher does not supply.
    """

    drawn: tuple[Candidate, ...]
    requests: tuple[GenerationRequest, ...]
    quotas: tuple[Quota, ...]
    spare: tuple[Candidate, ...] = ()


@dataclass(frozen=True)
class PlanSettings:
    """Settings that, with the pool, determine the plan of a round.

    `recipe` of it is part of the recipe of the expansions: a setting that a plan depends on belongs here.

    Attributes:
        round: The round, from 1.
        rows: Rows of the mix.
        alpha: Fraction of hard rows, 0 to 1.
        target: Share of each task type, in both subsets.
        difficulty: The score that the hard set is chosen by.
        delta: Threshold of the gap above which a row is hard, in judge points.
        hard_fraction: Fraction of hard rows in the pool, for scores without a threshold.
        beta: Temperature of the rollout spread, in judge points.
        seed: Seed of the run.
        new_share: Least share of new rows in each task type and subset; None requests only what the pool lacks.
        max_new_rows: Most rows that the round may request; None for no limit.
        surplus: Rows requested beyond the quotas, relative to them.
        min_examples: Least examples of a request, if the task type has as many.
        min_confidence: Least confidence of an example's task type, if the task type has such a row.
    """

    round: int
    rows: int
    alpha: float
    target: Shares
    difficulty: Difficulty
    delta: float
    hard_fraction: float
    beta: float
    seed: int
    new_share: float | None = None
    max_new_rows: int | None = None
    surplus: float = 0.0
    min_examples: int = 0
    min_confidence: float = 0.0

    @classmethod
    def for_round(cls, round_number: int, target: Shares, curriculum: CurriculumConfig, seed: int) -> "PlanSettings":
        """Return the settings of a round."""
        return cls(
            round=round_number,
            rows=curriculum.round_rows,
            alpha=alpha_for_round(round_number, curriculum.alpha, curriculum.delta_alpha),
            target=dict(target),
            difficulty=curriculum.difficulty,
            delta=curriculum.delta,
            hard_fraction=curriculum.hard_fraction,
            beta=curriculum.rollouts.beta,
            seed=seed,
            new_share=curriculum.new_share,
            max_new_rows=part_of_round(curriculum.max_new_rows, round_number, curriculum.rounds),
            surplus=curriculum.fresh_surplus if curriculum.gap_rows is GapRows.fresh else 0.0,
            min_examples=curriculum.min_examples,
            min_confidence=curriculum.min_example_confidence,
        )

    def recipe(self) -> dict[str, Any]:
        """Return the settings for a recipe; those with a default are omitted if they have it."""
        # A setting that was added later must not change the keys of runs that do not use it.
        defaults = {field.name: field.default for field in fields(self) if field.default is not MISSING}
        return {name: value for name, value in asdict(self).items() if name not in defaults or value != defaults[name]}

    @property
    def draw(self) -> str:
        """Name of the draw: another seed or round draws other rows."""
        return f"seed {self.seed} round {self.round}"


def alpha_for_round(round_number: int, alpha: float, delta_alpha: float) -> float:
    """Return the weight of the hard set in round 1, 2, ...: alpha grows linearly and is clipped to [0, 1]."""
    return min(1.0, max(0.0, alpha + (round_number - 1) * delta_alpha))


def part_of_round(total: int | None, round_number: int, rounds: int) -> int | None:
    """Return the part of a total that round 1, 2, ... gets; parts differ by at most 1 and sum to the total."""
    if total is None:
        return None
    return total * round_number // rounds - total * (round_number - 1) // rounds


def plan_round(pool: Sequence[Candidate], settings: PlanSettings) -> RoundPlan:
    """Plan the mix of a round: the fraction `alpha` of its rows is hard, each subset under the target task mix.

    The rows of a subset and task type are drawn without replacement, heavier ones first. New rows are requested if the
    pool has too few, or if `new_share` requires more. `max_new_rows` makes the mix smaller, so that task types and
    subsets keep their shares.
    """
    ranked = _rank_by_kind(pool, settings.draw)
    counts = count_rows(settings, {kind: len(rows) for kind, rows in ranked.items()})
    surplus = {kind: floor(count.requested * settings.surplus + TOLERANCE) for kind, count in counts.items()}
    drawn: list[Candidate] = []
    spare: list[Candidate] = []
    requests: list[GenerationRequest] = []
    quotas: list[Quota] = []
    for (task, subset), count in counts.items():
        available = ranked[task, subset]
        drawn += available[: count.drawn]
        if count.requested:
            spare += available[count.drawn :]
            other = Subset.REST if subset is Subset.HARD else Subset.HARD
            examples = _choose_examples(available, ranked[task, other], settings)
            requested = count.requested + surplus[task, subset]
            requests.append(GenerationRequest(task, subset, requested, examples))
        quotas.append(
            Quota(task=task, subset=subset, wanted=count.wanted, drawn=count.drawn, ordered=count.requested, filled=0)
        )
    return RoundPlan(tuple(drawn), tuple(requests), tuple(quotas), tuple(spare))


def _choose_examples(
    own: Sequence[Candidate], other: Sequence[Candidate], settings: PlanSettings
) -> tuple[Candidate, ...]:
    """Return the rows that a request shows: those of its subset, and of the other one if they are too few."""

    def sure(rows: Sequence[Candidate]) -> list[Candidate]:
        return [row for row in rows if row.confidence is None or row.confidence >= settings.min_confidence]

    # Unsure rows are better than none: without examples, a teacher does not match the level.
    own, other = (sure(own), sure(other)) if sure([*own, *other]) else (own, other)
    # Rows of the other subset show the teacher the task type, though not the difficulty.
    missing = max(settings.min_examples - len(own), 0) if own else len(other)
    return (*own, *other[:missing])


@dataclass(frozen=True)
class RowCount:
    """Rows of one task type and subset: `requested` of the `wanted` ones are new, the others are drawn."""

    wanted: int
    requested: int

    @property
    def drawn(self) -> int:
        """Return the rows that the pool supplies."""
        return self.wanted - self.requested


def count_rows(settings: PlanSettings, held: Mapping[Kind, int]) -> dict[Kind, RowCount]:
    """Return the rows of each task type and subset; `held` is how many the pool has."""
    limit = settings.max_new_rows
    if limit is None:
        wanted = _wanted_rows(settings.rows, settings)
        return _add_new_rows(wanted, _lacking_rows(wanted, held), settings.new_share, None)
    limit = floor(limit / (1 + settings.surplus) + TOLERANCE)
    # A mix of `fits` rows needs at most `limit` new ones; one of `beyond` rows needs more, or is larger than requested.
    fits, beyond = 0, settings.rows + 1
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        if sum(_lacking_rows(_wanted_rows(middle, settings), held).values()) <= limit:
            fits = middle
        else:
            beyond = middle
    wanted = _wanted_rows(fits, settings)
    return _add_new_rows(wanted, _lacking_rows(wanted, held), settings.new_share, limit)


def _wanted_rows(rows: int, settings: PlanSettings) -> dict[Kind, int]:
    hard_rows = round(settings.alpha * rows)
    parts = zip(Subset, apportion_parts((hard_rows, rows - hard_rows), settings.target), strict=True)
    return {(task, subset): count for subset, by_task in parts for task, count in by_task.items()}


def _lacking_rows(wanted: Mapping[Kind, int], held: Mapping[Kind, int]) -> dict[Kind, int]:
    return {kind: max(0, count - held.get(kind, 0)) for kind, count in wanted.items()}


def _add_new_rows(
    wanted: Mapping[Kind, int], lacking: Mapping[Kind, int], new_share: float | None, limit: int | None
) -> dict[Kind, RowCount]:
    """Request the lacking rows, and further ones up to `new_share` of each count and `limit` of all."""
    further = dict.fromkeys(wanted, 0)
    if new_share and any(wanted.values()):
        share = apportion(round(new_share * sum(wanted.values())), wanted)
        further = {kind: max(0, share[kind] - lacking[kind]) for kind in wanted}
        if limit is not None and sum(further.values()) > (room := limit - sum(lacking.values())):
            further = apportion(room, further)
    return {kind: RowCount(count, lacking[kind] + further[kind]) for kind, count in wanted.items()}


def _rank_by_kind(pool: Sequence[Candidate], draw: str) -> Mapping[Kind, list[Candidate]]:
    """Return the rows of each task type and subset in the order of a weighted draw without replacement.

    Source: Efraimidis and Spirakis, Weighted random sampling with a reservoir (2006).
    """
    kinds: defaultdict[Kind, list[Candidate]] = defaultdict(list)
    for row in pool:
        kinds[row.task, row.subset].append(row)
    for rows in kinds.values():
        # Sorting by u^(1/weight) is such a draw: the key depends on row and draw only, not on the order of the pool.
        rows.sort(key=lambda row: derive_uniform(draw, row.example.id) ** (1.0 / row.weight), reverse=True)
    return kinds
