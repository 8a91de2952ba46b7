"""The plan of a round: how large the hard share is, which rows are drawn, what the teacher is asked for. Pure."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tapir_exp.core.records import Example, Quota, Subset
from tapir_exp.core.seeding import derive_uniform
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.curriculum.task_mix import Shares, apportion_parts


@dataclass(frozen=True)
class Candidate:
    """A row that a plan may draw: its latest difficulty, and the part of the mix it belongs to.

    weight: how likely it is drawn beside others of its type and part; positive.
    """

    example: Example
    task: TaskType
    difficulty: float
    subset: Subset
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """New rows wanted of the teacher: so many of one type, about as difficult as the examples.

    examples: rows of that type, of the same part where there are any; empty where the type is not at hand.
    An order is told from others by identity: comparing all examples would cost much and mean nothing.
    """

    task: TaskType
    subset: Subset
    count: int
    examples: tuple[Candidate, ...]


@dataclass(frozen=True)
class RoundPlan:
    """What goes into a round's mix: rows drawn from the pool, and orders for what the pool lacks."""

    drawn: tuple[Candidate, ...]
    orders: tuple[GenerationRequest, ...]
    quotas: tuple[Quota, ...]


def alpha_for_round(round_number: int, alpha: float, delta_alpha: float) -> float:
    """Weight of the hard set in round 1, 2, ...: alpha grows by a constant and stays within 0 and 1."""
    return min(1.0, max(0.0, alpha + (round_number - 1) * delta_alpha))


def plan_round(pool: Sequence[Candidate], shares: Shares, rows: int, alpha: float, draw: str) -> RoundPlan:
    """Plan a mix of `rows` rows, of which the share `alpha` is hard, each part under the task ratio.

    A part's rows of a type are drawn without replacement, heavier ones first; what the pool lacks is ordered from
    the teacher. `draw` names the draw: another name, such as that of another seed or round, is another draw.
    """
    hard_rows = round(alpha * rows)
    wanted = dict(zip(Subset, apportion_parts((hard_rows, rows - hard_rows), shares), strict=True))
    found = _by_kind(pool, draw)
    drawn: list[Candidate] = []
    orders: list[GenerationRequest] = []
    quotas: list[Quota] = []
    for part, by_task in wanted.items():
        for task, count in by_task.items():
            at_hand = found[task, part]
            lacking = max(0, count - len(at_hand))
            drawn += at_hand[:count]
            if lacking:
                examples = at_hand or found[task, _other(part)]
                orders.append(GenerationRequest(task, part, lacking, tuple(examples)))
            quotas.append(Quota(task=task, subset=part, wanted=count, drawn=count - lacking, ordered=lacking, filled=0))
    return RoundPlan(tuple(drawn), tuple(orders), tuple(quotas))


def _by_kind(pool: Sequence[Candidate], draw: str) -> Mapping[tuple[TaskType, Subset], list[Candidate]]:
    """The rows of each type and part, ordered by weighted sampling without replacement (Efraimidis, Spirakis 2006)."""
    kinds: defaultdict[tuple[TaskType, Subset], list[Candidate]] = defaultdict(list)
    for row in pool:
        kinds[row.task, row.subset].append(row)
    for rows in kinds.values():
        rows.sort(key=lambda row: derive_uniform(draw, row.example.id) ** (1.0 / row.weight), reverse=True)
    return kinds


def _other(subset: Subset) -> Subset:
    return Subset.REST if subset is Subset.HARD else Subset.HARD
