"""The rows of a round's mix: those drawn, the new ones that its quotas take, and rows of earlier mixes. Pure."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tapir_exp.core.records import Quota, Subset, TrainingExample
from tapir_exp.core.seeding import derive_uniform
from tapir_exp.distillation.curriculum.sampling import Candidate, Kind, RoundPlan


@dataclass(frozen=True)
class FilledPlan:
    """A plan with the rows that fill it.

    Attributes:
        drawn: Rows drawn from the pool, those that replace missing new rows at the end.
        new: Rows that the teacher wrote.
        quotas: The quotas of the plan, with the rows that fill them.
    """

    drawn: tuple[Candidate, ...]
    new: tuple[TrainingExample, ...]
    quotas: tuple[Quota, ...]

    @property
    def rows(self) -> list[TrainingExample]:
        """Return the rows of the mix, drawn ones first."""
        return [*(candidate.to_training_example() for candidate in self.drawn), *self.new]


def fill_plan(plan: RoundPlan, written: Iterable[TrainingExample]) -> FilledPlan:
    """Fill the quotas of a plan with new rows, in order, and with spare rows of the pool if new ones are missing.

    Args:
        plan: The plan.
        written: New rows with their task type and subset. Rows beyond a quota are dropped.
    """
    missing = Counter({(quota.task, quota.subset): quota.ordered for quota in plan.quotas})
    filled: Counter[Kind] = Counter()
    new = []
    for row in written:
        if row.task is not None and missing[row.task, row.subset] > 0:
            missing[row.task, row.subset] -= 1
            filled[row.task, row.subset] += 1
            new.append(row)
    replaced: defaultdict[Kind, list[Candidate]] = defaultdict(list)
    for candidate in plan.spare:
        if missing[candidate.task, candidate.subset] > 0:
            missing[candidate.task, candidate.subset] -= 1
            replaced[candidate.task, candidate.subset].append(candidate)
    quotas = tuple(_filled_quota(quota, filled, replaced) for quota in plan.quotas)
    return FilledPlan((*plan.drawn, *(one for rows in replaced.values() for one in rows)), tuple(new), quotas)


def _filled_quota(quota: Quota, filled: Mapping[Kind, int], replaced: Mapping[Kind, Sequence[Candidate]]) -> Quota:
    kind = quota.task, quota.subset
    drawn = quota.drawn + len(replaced.get(kind, ()))
    return quota.model_copy(update={"filled": filled[kind], "drawn": drawn})


def measured_rows(
    written: Iterable[TrainingExample], scores: Mapping[str, float], hard: Collection[str]
) -> list[TrainingExample]:
    """Return new rows with their difficulty, in the subset that it puts them in; rows without a score are dropped.

    Args:
        written: New rows in the subset that they were requested for.
        scores: Difficulty by row id.
        hard: Ids of the hard set.
    """
    return [
        row.model_copy(update={"subset": Subset.HARD if row.id in hard else Subset.REST, "difficulty": scores[row.id]})
        for row in written
        if row.id in scores
    ]


def replay_rows(
    mix: Sequence[TrainingExample], earlier: Sequence[Sequence[TrainingExample]], share: float, draw: str
) -> list[TrainingExample]:
    """Return the rows of earlier mixes that are trained again: the newest version of a row, and none of this mix.

    Args:
        mix: The mix of the round.
        earlier: The mixes of earlier rounds, oldest first, without rows that were replayed in them.
        share: Share of each earlier mix that is drawn, 0 to 1.
        draw: Name of the draw, such as a seed and a round.
    """
    newest = {row.id: row for rows in earlier for row in rows}
    chosen: set[str] = set()
    for number, rows in enumerate(earlier, 1):
        ranked = sorted(rows, key=lambda row: derive_uniform(draw, f"replay of mix {number}", row.id))
        chosen.update(row.id for row in ranked[: round(share * len(rows))])
    current = {row.id for row in mix}
    return [row for row_id, row in newest.items() if row_id in chosen and row_id not in current]
