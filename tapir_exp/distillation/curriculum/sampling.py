"""The plan of a round: the hard fraction, the rows drawn from the pool, the rows requested of the teacher. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tapir_exp.config import CurriculumConfig, Difficulty
from tapir_exp.core.records import Example, Quota, Subset, TrainingExample
from tapir_exp.core.seeding import derive_uniform
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.curriculum.task_mix import Shares, apportion_parts


@dataclass(frozen=True)
class Candidate:
    """A pool row that a plan may draw.

    Attributes:
        example: The row.
        task: Its task type.
        difficulty: Its latest difficulty.
        subset: The part of the mix that it belongs to.
        weight: Positive; how likely the row is drawn among the rows of its task type and subset.
    """

    example: Example
    task: TaskType
    difficulty: float
    subset: Subset
    weight: float = 1.0

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
        requests: Requests for the rows that the pool lacks.
        quotas: Rows wanted, drawn and requested of each task type and subset.
    """

    drawn: tuple[Candidate, ...]
    requests: tuple[GenerationRequest, ...]
    quotas: tuple[Quota, ...]


@dataclass(frozen=True)
class PlanSettings:
    """Settings that, with the pool, determine the plan of a round.

    `asdict` of it is part of the recipe of the expansions: a setting that a plan depends on belongs here.

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

    @classmethod
    def for_round(cls, round_number: int, target: Shares, curriculum: CurriculumConfig, seed: int) -> "PlanSettings":
        """Return the settings of a round."""
        return cls(
            round=round_number,
            rows=curriculum.rows_per_round,
            alpha=alpha_for_round(round_number, curriculum.alpha, curriculum.delta_alpha),
            target=dict(target),
            difficulty=curriculum.difficulty,
            delta=curriculum.delta,
            hard_fraction=curriculum.hard_fraction,
            beta=curriculum.rollouts.beta,
            seed=seed,
        )

    @property
    def draw(self) -> str:
        """Name of the draw: another seed or round draws other rows."""
        return f"seed {self.seed} round {self.round}"


def alpha_for_round(round_number: int, alpha: float, delta_alpha: float) -> float:
    """Return the weight of the hard set in round 1, 2, ...: alpha grows linearly and is clipped to [0, 1]."""
    return min(1.0, max(0.0, alpha + (round_number - 1) * delta_alpha))


def plan_round(pool: Sequence[Candidate], settings: PlanSettings) -> RoundPlan:
    """Plan the mix of a round: the fraction `alpha` of its rows is hard, each subset under the target task mix.

    The rows of a subset and task type are drawn without replacement, heavier ones first. If the pool has too few, the
    rest is requested of the teacher.
    """
    hard_rows = round(settings.alpha * settings.rows)
    sizes = (hard_rows, settings.rows - hard_rows)
    wanted = dict(zip(Subset, apportion_parts(sizes, settings.target), strict=True))
    ranked = _rank_by_kind(pool, settings.draw)
    drawn: list[Candidate] = []
    requests: list[GenerationRequest] = []
    quotas: list[Quota] = []
    for subset, by_task in wanted.items():
        for task, count in by_task.items():
            available = ranked[task, subset]
            lacking = max(0, count - len(available))
            drawn += available[:count]
            if lacking:
                # Rows of the other subset show the teacher the task type, though not the difficulty.
                other = Subset.REST if subset is Subset.HARD else Subset.HARD
                examples = available or ranked[task, other]
                requests.append(GenerationRequest(task, subset, lacking, tuple(examples)))
            quotas.append(
                Quota(task=task, subset=subset, wanted=count, drawn=count - lacking, ordered=lacking, filled=0)
            )
    return RoundPlan(tuple(drawn), tuple(requests), tuple(quotas))


def _rank_by_kind(pool: Sequence[Candidate], draw: str) -> Mapping[tuple[TaskType, Subset], list[Candidate]]:
    """Return the rows of each task type and subset in the order of a weighted draw without replacement.

    Source: Efraimidis and Spirakis, Weighted random sampling with a reservoir (2006).
    """
    kinds: defaultdict[tuple[TaskType, Subset], list[Candidate]] = defaultdict(list)
    for row in pool:
        kinds[row.task, row.subset].append(row)
    for rows in kinds.values():
        # Sorting by u^(1/weight) is such a draw: the key depends on row and draw only, not on the order of the pool.
        rows.sort(key=lambda row: derive_uniform(draw, row.example.id) ** (1.0 / row.weight), reverse=True)
    return kinds
