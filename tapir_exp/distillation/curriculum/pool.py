"""The pool: every row that the student can be trained on, each with its latest difficulty. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tapir_exp.core.records import Example, Label, Origin, Response, Subset, TrainingExample
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.curriculum.sampling import Candidate
from tapir_exp.distillation.curriculum.task_mix import Shares, natural_shares

MIN_WEIGHT = 0.1
"""Smallest weight of a hard row: with a threshold below zero, a hard row may have a gap of 0 or less."""


_ALL_FIELDS = set(Example.model_fields)


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A row with its task type and its latest difficulty; the response is the teacher's, unrefined.

    `confidence` is the classifier's, None if it gives none. An expansion has none: classifier and request agree on it.
    """

    example: Example
    task: TaskType
    difficulty: float
    confidence: float | None = None


@dataclass(frozen=True)
class Pool:
    """The rows that a plan draws from.

    Attributes:
        rows: Rows by id.
        seen: Every instruction so far, including those that got no task type or no score and are no rows.
        keys: Keys of the artifacts that the rows were made from.
    """

    rows: Mapping[str, PoolRow]
    seen: frozenset[str]
    keys: tuple[str, ...]

    @property
    def difficulties(self) -> dict[str, float]:
        """Latest difficulty by row id."""
        return {row_id: row.difficulty for row_id, row in self.rows.items()}

    @property
    def natural(self) -> Shares:
        """Share of each task type among the seeds."""
        return natural_shares(row.task for row in self.rows.values() if row.example.origin is Origin.SEED)

    def candidates(self, hard: frozenset[str], *, guided: bool) -> list[Candidate]:
        """Return every row with its subset and its weight in the draw.

        Args:
            hard: Ids of the hard set.
            guided: If True, a hard row weighs as much as its difficulty. If False, all rows weigh the same.
        """
        return [
            Candidate(
                row.example,
                row.task,
                row.difficulty,
                Subset.HARD if row_id in hard else Subset.REST,
                max(row.difficulty, MIN_WEIGHT) if guided and row_id in hard else 1.0,
                row.confidence,
            )
            for row_id, row in self.rows.items()
        ]

    def update(self, expansions: Iterable[TrainingExample], scores: Mapping[str, float], keys: Sequence[str]) -> "Pool":
        """Return the pool after a round: expansions enter, and re-scored rows get their new difficulty.

        Args:
            expansions: New rows of the round. A row without a score or a task type does not enter.
            scores: New difficulty by row id.
            keys: Keys of the artifacts that expansions and scores come from.
        """
        rows = {
            row_id: replace(row, difficulty=scores.get(row_id, row.difficulty)) for row_id, row in self.rows.items()
        }
        new_rows = list(expansions)
        for new in new_rows:
            if new.id in scores and new.task is not None:
                rows[new.id] = PoolRow(new.to_example(), new.task, scores[new.id])
        # A new row that does not enter also counts as seen: if the teacher writes it again, it is a repeat.
        return Pool(rows, self.seen | {new.instruction for new in new_rows}, (*self.keys, *keys))


def seed_pool(
    seeds: Collection[Example],
    labels: Iterable[Label],
    responses: Iterable[Response],
    scores: Mapping[str, float],
    keys: Sequence[str],
) -> Pool:
    """Return the pool before the first round.

    It holds the seeds that have a task type, a teacher's response and a score. That response replaces the data set's.

    Args:
        seeds: The seed instructions.
        labels: Their task types.
        responses: The teacher's responses.
        scores: Difficulty by row id.
        keys: Keys of the artifacts that all of these come from.
    """
    types = {label.id: (label.task, label.confidence) for label in labels}
    texts = {response.id: response.text for response in responses}
    rows, seen = {}, set()
    for seed in seeds:
        task, confidence = types.pop(seed.id, (None, None))
        text = texts.pop(seed.id, None)
        seen.add(seed.instruction)
        if task is not None and text is not None and seed.id in scores:
            rows[seed.id] = PoolRow(_compact(seed, text), task, scores[seed.id], confidence)
    return Pool(rows, frozenset(seen), tuple(keys))


def _compact(seed: Example, response: str) -> Example:
    """Return a seed with another response. A set of its own for the names of its fields would take 700 bytes."""
    return Example.model_construct(_ALL_FIELDS, **{**dict(seed), "response": response})
