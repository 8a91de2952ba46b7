"""The curriculum of a round as rows for people: a sample of the mix with gaps and scores, and the mix of task types."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from statistics import fmean

from tapir_exp.core.records import BOTH_ORDERS, Label, Quota, Subset, TrainingExample, Verdict
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.curriculum.task_mix import apportion
from tapir_exp.report.trackers.base import Table

Cell = float | str | None
AUTHORS = ("teacher", "student")
CURRICULUM_COLUMNS = (
    *("id", "origin", "created_in_round", "parents", "task", "subset", "alpha_weight", "gap_fresh", "gap_trained"),
    *(f"{author}_score, {order}" for order in BOTH_ORDERS for author in AUTHORS),
    *("instruction", "response"),
)
"""`gap_fresh` is of the last verdict ahead of the fit on the mix, `gap_trained` of the verdict after it. The scores are
those of the first of the two that there is, by the order in which the judge got the responses."""
TASK_MIX_COLUMNS = ("task", "seeds", "mix", "target")
LONGEST_TEXT = 2_000
"""Characters of an instruction or a response that are shown."""
Key = tuple[TaskType | None, Subset]


@dataclass(frozen=True)
class Scored:
    """Gap of a row, and both scores by the order in which the judge got the responses."""

    gap: float | None
    scores: tuple[float | None, ...]

    @classmethod
    def of(cls, verdict: Verdict) -> "Scored":
        """Return the figures of a verdict; a reply that is missing has no scores."""
        scores: list[float | None] = []
        for order in BOTH_ORDERS:
            replies = [reply for reply in verdict.replies if reply.order is order]
            scores += [_mean([reply.teacher for reply in replies]), _mean([reply.student for reply in replies])]
        return cls(verdict.gap, tuple(scores))


def _mean(scores: Sequence[float | None]) -> float | None:
    """Return the mean over samples and judges; None without a score."""
    known = [score for score in scores if score is not None]
    return fmean(known) if known else None


NOT_SCORED = Scored(None, (None,) * 4)


@dataclass
class RoundData:
    """What the tables of a round are made from.

    Attributes:
        number: The round.
        alpha: Weight of the hard set in the loss.
        mix: Rows of the mix.
        plan: Quotas of the round.
        labels: Task labels of the seeds.
        fresh: Last verdict on each row ahead of the fit, by id.
        trained: Verdict on each row after the fit, by id.
    """

    number: int
    alpha: float
    mix: Sequence[TrainingExample]
    plan: Sequence[Quota] = ()
    labels: Sequence[Label] = ()
    fresh: Mapping[str, Scored] = field(default_factory=dict)
    trained: Mapping[str, Scored] = field(default_factory=dict)


def curriculum_table(data: RoundData, limit: int, time: float, clean: Callable[[str], str] = str) -> Table:
    """Return a sample of the mix, one row each; see `CURRICULUM_COLUMNS`.

    Args:
        data: The round.
        limit: Most rows.
        time: Time of the round's end.
        clean: Removes secrets from a text.
    """
    rows = [_cells(row, data, clean) for row in stratified_sample(data.mix, limit)]
    return Table(f"curriculum/round-{data.number}", data.number, CURRICULUM_COLUMNS, rows, time)


def stratified_sample(rows: Sequence[TrainingExample], limit: int) -> list[TrainingExample]:
    """Return at most `limit` rows, from each task type and subset in proportion, and at least one if there is room.

    The sample depends on the ids only, so it is the same in every run with this mix. Rows are sorted by type, subset
    and id.
    """
    strata: defaultdict[Key, list[TrainingExample]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: sha256(row.id.encode()).digest()):
        strata[row.task, row.subset].append(row)
    sizes = {key: len(of_key) for key, of_key in sorted(strata.items(), key=lambda item: (str(item[0][0]), item[0][1]))}
    if limit < len(sizes):
        # No room for all: the largest ones, each with a row.
        shares = dict.fromkeys(sorted(sizes, key=lambda key: -sizes[key])[: max(0, limit)], 1)
    elif limit < len(rows):
        more = apportion(limit - len(sizes), {key: size - 1 for key, size in sizes.items()})
        shares = {key: 1 + more[key] for key in sizes}
    else:
        shares = sizes
    return [row for key in sizes for row in sorted(strata[key][: shares.get(key, 0)], key=lambda row: row.id)]


def _cells(row: TrainingExample, data: RoundData, clean: Callable[[str], str]) -> list[Cell]:
    fresh, trained = data.fresh.get(row.id), data.trained.get(row.id)
    scored = fresh or trained or NOT_SCORED
    return [
        row.id,
        row.origin.value,
        row.created_in_round,
        " ".join(row.parents),
        None if row.task is None else row.task.value,
        row.subset.value,
        data.alpha if row.subset is Subset.HARD else 1 - data.alpha,
        fresh.gap if fresh else None,
        trained.gap if trained else None,
        *scored.scores,
        *(shorten(clean(text)) for text in (row.instruction, row.response)),
    ]


def task_mix_table(data: RoundData, time: float) -> Table:
    """Return the share of each task type in the seeds, in the mix of the round, and in its target."""
    seeds = _shares(label.task for label in data.labels if label.task is not None)
    mix = _shares(row.task for row in data.mix)
    wanted: Counter[TaskType | None] = Counter()
    for quota in data.plan:
        wanted[quota.task] += quota.wanted
    target = {task: rows / (wanted.total() or 1) for task, rows in wanted.items()}
    tasks = sorted({*seeds, *mix, *target}, key=lambda task: (-target.get(task, 0.0), str(task)))
    rows = [[task and task.value, *(share.get(task, 0.0) for share in (seeds, mix, target))] for task in tasks]
    return Table(f"task_mix/round-{data.number}", data.number, TASK_MIX_COLUMNS, rows, time)


def _shares(tasks: Iterable[TaskType | None]) -> dict[TaskType | None, float]:
    counts = Counter(tasks)
    return {task: count / counts.total() for task, count in counts.items()}


def shorten(text: str) -> str:
    """Cut a long text."""
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 2]} …"
