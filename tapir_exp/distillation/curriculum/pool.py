"""The pool: every row that the student can be trained on, each with its latest difficulty. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tapir_exp.core.records import Example, Label, Origin, Response, Subset, TrainingExample
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.curriculum.sampling import Candidate
from tapir_exp.distillation.curriculum.task_mix import Shares, natural_shares

LIGHTEST = 0.1
"""Weight of a hard row whose difficulty is smaller, as a gap may be under a threshold below zero."""


@dataclass(frozen=True)
class PoolRow:
    """A row with its task type and its latest difficulty; the response is the teacher's, unrefined."""

    example: Example
    task: TaskType
    difficulty: float


@dataclass(frozen=True)
class Pool:
    """The rows by id.

    seen: every instruction that ever came up, those included that could not be typed or scored and are no rows.
    keys: of the artifacts that the rows were made from.
    """

    rows: Mapping[str, PoolRow]
    seen: frozenset[str]
    keys: tuple[str, ...]

    @property
    def difficulties(self) -> dict[str, float]:
        """Latest difficulty by row id."""
        return {row: pooled.difficulty for row, pooled in self.rows.items()}

    @property
    def natural(self) -> Shares:
        """Share of each task type among the seeds."""
        return natural_shares(row.task for row in self.rows.values() if row.example.origin is Origin.SEED)

    def candidates(self, hard: frozenset[str], *, guided: bool) -> list[Candidate]:
        """Every row as a plan sees it, the hard set told from the rest.

        guided: whether a hard row weighs as much as it is difficult, so that the scores guide the draw; else all weigh
        alike.
        """
        return [
            Candidate(row.example, row.task, row.difficulty, Subset.HARD, _weight(row) if guided else 1.0)
            if key in hard
            else Candidate(row.example, row.task, row.difficulty, Subset.REST)
            for key, row in self.rows.items()
        ]

    def after(self, expansions: Iterable[TrainingExample], scores: Mapping[str, float], keys: Sequence[str]) -> "Pool":
        """The pool after a round: the new rows in it, and every re-scored row with its new difficulty.

        A new row that stayed unscored or unlabelled does not enter.
        """
        rows = {key: replace(row, difficulty=scores.get(key, row.difficulty)) for key, row in self.rows.items()}
        new_rows = list(expansions)
        for new in new_rows:
            if new.id in scores and new.task is not None:
                rows[new.id] = PoolRow(example_from_training_row(new), new.task, scores[new.id])
        return Pool(rows, self.seen | {new.instruction for new in new_rows}, (*self.keys, *keys))


def _weight(row: PoolRow) -> float:
    return max(row.difficulty, LIGHTEST)


def seed_pool(
    seeds: Collection[Example],
    labels: Iterable[Label],
    responses: Iterable[Response],
    scores: Mapping[str, float],
    keys: Sequence[str],
) -> Pool:
    """The pool before the first round: the seeds that have a type, a teacher's response and a difficulty."""
    tasks = {label.id: label.task for label in labels}
    texts = {response.id: response.text for response in responses}
    rows = {}
    for seed in seeds:
        task, text = tasks.get(seed.id), texts.get(seed.id)
        if task is not None and text is not None and seed.id in scores:
            rows[seed.id] = PoolRow(seed.model_copy(update={"response": text}), task, scores[seed.id])
    return Pool(rows, frozenset(seed.instruction for seed in seeds), tuple(keys))


def example_from_training_row(row: TrainingExample) -> Example:
    """The example that a training row was made from."""
    return Example(
        id=row.id,
        instruction=row.instruction,
        response=row.response,
        origin=row.origin,
        parents=row.parents,
        round=row.created_in_round,
    )
