"""The curriculum of a round as rows: bounded, stratified, the same for every order of the mix."""

from collections import Counter
from collections.abc import Sequence

import pytest

from tapir_exp.core.records import (
    JudgeReply,
    Label,
    Origin,
    PresentationOrder,
    Quota,
    Subset,
    TrainingExample,
    Verdict,
    example_id,
)
from tapir_exp.core.task_types import TaskType
from tapir_exp.report.trackers.curriculum import (
    CURRICULUM_COLUMNS,
    LONGEST_TEXT,
    RoundData,
    Scored,
    curriculum_table,
    stratified_sample,
    task_mix_table,
)

MATH, LAW, HISTORY = TaskType.MATH, TaskType.LAW, TaskType.HISTORY


def row(text: str, task: TaskType | None = MATH, subset: Subset = Subset.HARD) -> TrainingExample:
    return TrainingExample(
        id=example_id(text),
        instruction=text,
        response=f"response to {text}",
        task=task,
        subset=subset,
        origin=Origin.EXPANSION,
        parents=("a", "b"),
        created_in_round=1,
        difficulty=None,
    )


MIX = [
    *(row(f"math {n}") for n in range(60)),
    *(row(f"easy math {n}", subset=Subset.REST) for n in range(30)),
    *(row(f"law {n}", LAW, Subset.REST) for n in range(9)),
    row("history", HISTORY),
]


def kinds(rows: Sequence[TrainingExample]) -> Counter[tuple[TaskType | None, Subset]]:
    return Counter((example.task, example.subset) for example in rows)


@pytest.mark.parametrize(
    ("limit", "counts"),
    [
        (100, [60, 30, 9, 1]),
        (99, [59, 30, 9, 1]),
        (24, [13, 7, 3, 1]),
        (4, [1, 1, 1, 1]),
        (2, [1, 1, 0, 0]),
        (0, [0, 0, 0, 0]),
    ],
)
def test_sample_is_bounded_and_stratified(limit: int, counts: list[int]) -> None:
    sample = kinds(stratified_sample(MIX, limit))
    order = [(MATH, Subset.HARD), (MATH, Subset.REST), (LAW, Subset.REST), (HISTORY, Subset.HARD)]
    assert [sample[kind] for kind in order] == counts


def test_sample_is_independent_of_the_order_of_the_mix() -> None:
    assert stratified_sample(MIX, 24) == stratified_sample(MIX[::-1], 24)


def verdict(row_id: str, *orders: tuple[float, float] | None) -> Verdict:
    names = (PresentationOrder.TEACHER_FIRST, PresentationOrder.STUDENT_FIRST)
    replies = [
        JudgeReply(order=name, teacher=scores and scores[0], student=scores and scores[1], raw="")
        for name, scores in zip(names, orders, strict=False)
    ]
    scored = None not in orders
    means = [sum(reply.teacher or 0 for reply in replies), sum(reply.student or 0 for reply in replies)]
    teacher, student = (mean / len(replies) if scored else None for mean in means)
    return Verdict(id=row_id, replies=tuple(replies), teacher=teacher, student=student)


@pytest.mark.parametrize(
    ("fresh", "trained", "gaps", "scores"),
    [
        ([(9, 3), (8, 4)], [(9, 8), (9, 8)], [5.0, 1.0], [9, 3, 8, 4]),
        (None, [(9, 8), (7, 8)], [None, 0.0], [9, 8, 7, 8]),
        ([(9, 3)], None, [6.0, None], [9, 3, None, None]),
        ([(9, 3), None], None, [None, None], [9, 3, None, None]),
        (None, None, [None, None], [None] * 4),
    ],
)
def test_row_has_gaps_and_scores_in_both_orders(
    fresh: list[tuple[float, float]] | None,
    trained: list[tuple[float, float]] | None,
    gaps: list[float | None],
    scores: list[float | None],
) -> None:
    example = row("text")
    verdicts = [{} if of is None else {example.id: Scored.of(verdict("x", *of))} for of in (fresh, trained)]
    data = RoundData(2, 0.3, [example], fresh=verdicts[0], trained=verdicts[1])
    (cells,) = curriculum_table(data, 5, 0.0).rows
    cell = dict(zip(CURRICULUM_COLUMNS, cells, strict=True))
    assert [cell["gap_fresh"], cell["gap_trained"]] == gaps
    assert list(cells[9:13]) == scores
    assert (cell["parents"], cell["origin"], cell["created_in_round"]) == ("a b", "expansion", 1)


def test_row_has_the_weight_of_its_subset() -> None:
    data = RoundData(1, 0.3, [row("hard"), row("easy", None, Subset.REST)])
    table = curriculum_table(data, 5, 0.0)
    weights = {cells[5]: (cells[4], cells[6]) for cells in table.rows}
    assert weights == {"hard": ("Math", 0.3), "rest": (None, 0.7)}
    assert (table.name, table.position) == ("curriculum/round-1", 1)


def test_texts_are_cut_and_cleaned() -> None:
    data = RoundData(1, 0.3, [row("key " + "x" * 3000)])
    (cells,) = curriculum_table(data, 5, 0.0, lambda text: text.replace("key", "(hidden)")).rows
    assert str(cells[-2]).startswith("(hidden) xxx")
    assert (len(str(cells[-2])), str(cells[-2])[-1]) == (LONGEST_TEXT, "…")


def test_task_mix_is_compared_with_seeds_and_target() -> None:
    labels = [Label(id=str(n), task=task, raw="") for n, task in enumerate([MATH, LAW, LAW, LAW, None])]
    plan = [
        Quota(task=MATH, subset=Subset.HARD, wanted=3, drawn=3, ordered=0, filled=0),
        Quota(task=MATH, subset=Subset.REST, wanted=3, drawn=3, ordered=0, filled=0),
        Quota(task=HISTORY, subset=Subset.REST, wanted=2, drawn=0, ordered=2, filled=0),
    ]
    data = RoundData(1, 0.3, [row("a"), row("b", subset=Subset.REST)], plan, labels)
    rows = task_mix_table(data, 0.0).rows
    assert rows == [["Math", 0.25, 1.0, 0.75], ["History", 0.0, 0.0, 0.25], ["Law", 0.75, 0.0, 0.0]]
