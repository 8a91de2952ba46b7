"""The pool holds what has a type, a response of the teacher and a latest gap; it remembers all that ever came up."""

from collections import Counter

import pytest
from fakes import example, training_row

from tapir_exp.core.records import Example, Label, Origin, Response, Subset, TrainingExample, example_id
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.curriculum.pool import LIGHTEST, Pool, PoolRow, example_from_training_row, seed_pool
from tapir_exp.distillation.curriculum.sampling import plan_round

A, B, C = (example(name, response=f"the dataset's {name}") for name in "abc")
MATH, LAW = TaskType.MATH, TaskType.LAW


def label(seed: Example, task: TaskType | None) -> Label:
    return Label(id=seed.id, task=task, raw="", failure=None if task else "unreadable reply")


def answer(seed: Example, text: str | None = "the teacher's") -> Response:
    return Response(id=seed.id, text=text, failure=None if text else "time-out")


def pool_of(*rows: tuple[Example, TaskType, float]) -> Pool:
    seen = frozenset(seed.instruction for seed, _, _ in rows)
    return Pool({seed.id: PoolRow(seed, task, gap) for seed, task, gap in rows}, seen, ("seeds",))


def test_a_seed_enters_with_the_teachers_response_its_type_and_its_gap() -> None:
    pool = seed_pool([A], [label(A, MATH)], [answer(A)], {A.id: 4.5}, ["seeds", "verdicts"])
    assert pool.rows == {A.id: PoolRow(A.model_copy(update={"response": "the teacher's"}), MATH, 4.5)}
    assert pool.seen == {"a"}
    assert pool.keys == ("seeds", "verdicts")


@pytest.mark.parametrize(
    ("task_labels", "answers", "gaps"),
    [
        ([label(B, None)], [answer(B)], {B.id: 3.0}),
        ([], [answer(B)], {B.id: 3.0}),
        ([label(B, LAW)], [answer(B, None)], {B.id: 3.0}),
        ([label(B, LAW)], [], {B.id: 3.0}),
        ([label(B, LAW)], [answer(B)], {}),
    ],
    ids=["unlabelled", "label gone", "unanswered", "answer gone", "unscored"],
)
def test_a_seed_that_lacks_anything_does_not_enter(
    labels: list[Label], answers: list[Response], gaps: dict[str, float]
) -> None:
    pool = seed_pool([A, B], [label(A, MATH), *labels], [answer(A), *answers], {A.id: 0.0, **gaps}, [])
    assert list(pool.rows) == [A.id]
    assert pool.seen == {"a", "b"}


def test_rows_keep_the_order_of_the_seeds() -> None:
    labels, answers = [label(seed, MATH) for seed in (C, B, A)], [answer(seed) for seed in (B, C, A)]
    gaps = {seed.id: 1.0 for seed in (B, A, C)}
    assert list(seed_pool([A, B, C], labels, answers, gaps, []).rows) == [A.id, B.id, C.id]


@pytest.mark.parametrize("guided", [True, False])
def test_candidates_tell_the_hard_set_from_the_rest(guided: bool) -> None:
    found = pool_of((A, MATH, 5.0), (B, LAW, 1.0)).candidates(frozenset({A.id}), guided=guided)
    assert [(c.example, c.task, c.difficulty, c.subset) for c in found] == [
        (A, MATH, 5.0, Subset.HARD),
        (B, LAW, 1.0, Subset.REST),
    ]


def test_a_guided_hard_row_weighs_its_gap_and_the_rest_weigh_alike() -> None:
    pool = pool_of((A, MATH, 5.0), (B, LAW, 1.5), (C, LAW, -3.0))
    assert [c.weight for c in pool.candidates(frozenset({A.id, B.id}), guided=True)] == [5.0, 1.5, 1.0]
    assert [c.weight for c in pool.candidates(frozenset(), guided=True)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("gap", [LIGHTEST / 2, 0.0, -9.0])
def test_a_guided_hard_row_of_no_gap_can_still_be_drawn(gap: float) -> None:
    (only,) = pool_of((A, MATH, gap)).candidates(frozenset({A.id}), guided=True)
    assert only.weight == LIGHTEST > 0
    assert plan_round([only], {MATH: 1.0}, 1, 1.0, "any").drawn == (only,)


def test_unguided_all_rows_weigh_alike_whatever_their_gaps() -> None:
    pool = pool_of((A, MATH, 9.0), (B, MATH, 0.5), (C, MATH, -9.0))
    for hard in (frozenset({A.id, B.id, C.id}), frozenset({B.id}), frozenset[str]()):
        assert [c.weight for c in pool.candidates(hard, guided=False)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("guided", "share"), [(True, 0.9), (False, 0.5)])
def test_the_draw_from_the_hard_set_follows_the_gaps_only_where_guided(guided: bool, share: float) -> None:
    candidates = pool_of((A, MATH, 9.0), (B, MATH, 1.0)).candidates(frozenset({A.id, B.id}), guided=guided)
    plans = [plan_round(candidates, {MATH: 1.0}, 1, 1.0, f"draw {n}") for n in range(1000)]
    drawn = Counter(plan.drawn[0].example.id for plan in plans)
    assert drawn[A.id] / 1000 == pytest.approx(share, abs=0.065)  # 4 sd


def test_the_natural_mix_is_that_of_the_seeds_alone() -> None:
    new = example("new", origin=Origin.EXPANSION)
    pool = pool_of((A, MATH, 5.0), (B, LAW, 1.0), (C, LAW, 1.0), (new, TaskType.ART, 1.0))
    assert pool.natural == {MATH: pytest.approx(1 / 3), LAW: pytest.approx(2 / 3)}


def test_after_a_round_a_rescored_row_has_its_new_gap_and_keeps_the_unrefined_response() -> None:
    pool = pool_of((A, MATH, 5.0), (B, LAW, 1.0))
    after = pool.after([], {A.id: -0.5}, ["verdicts-1"])
    assert after.rows[A.id] == PoolRow(A, MATH, -0.5)
    assert after.rows[B.id] == PoolRow(B, LAW, 1.0)
    assert after.difficulties == {A.id: -0.5, B.id: 1.0}
    assert after.keys == ("seeds", "verdicts-1")
    assert after.seen == pool.seen == {"a", "b"}
    assert pool.difficulties == {A.id: 5.0, B.id: 1.0}


def test_after_a_round_a_scored_new_row_is_in_the_pool_with_its_lineage() -> None:
    new = training_row("new", response="unrefined", task=LAW, parents=(A.id, B.id), created_in_round=2)
    after = pool_of((A, MATH, 5.0)).after([new], {new.id: 2.5}, [])
    created_in_round = Example(
        id=example_id("new"),
        instruction="new",
        response="unrefined",
        origin=Origin.EXPANSION,
        parents=(A.id, B.id),
        round=2,
    )
    assert after.rows[new.id] == PoolRow(created_in_round, LAW, 2.5)
    assert list(after.rows) == [A.id, new.id]
    assert after.seen == {"a", "new"}


@pytest.mark.parametrize(
    ("new", "gaps"),
    [(training_row("new"), {}), (training_row("new", task=None), {example_id("new"): 2.0})],
    ids=["unscored", "unlabelled"],
)
def test_after_a_round_a_new_row_that_lacks_anything_does_not_enter(
    new: TrainingExample, gaps: dict[str, float]
) -> None:
    after = pool_of((A, MATH, 5.0)).after(iter([new]), gaps, [])
    assert list(after.rows) == [A.id]
    assert after.seen == {"a", "new"}  # so that the teacher's next proposal of it is a repeat


def test_what_was_seen_stays_seen_round_after_round() -> None:
    pool = Pool({}, frozenset({"a lost seed"}), ())
    for number in range(3):
        pool = pool.after([training_row(f"new {number}")], {}, [])
    assert pool.seen == {"a lost seed", "new 0", "new 1", "new 2"}
    assert pool.rows == {}


def test_a_gap_of_a_row_that_is_not_known_changes_nothing() -> None:
    pool = pool_of((A, MATH, 5.0))
    assert pool.after([], {"unknown": 9.0}, []).rows == pool.rows


def test_an_example_comes_back_out_of_its_training_row() -> None:
    assert example_from_training_row(training_row("new", parents=("p", "q"), created_in_round=3)) == Example(
        id=example_id("new"),
        instruction="new",
        response="a response",
        origin=Origin.EXPANSION,
        parents=("p", "q"),
        round=3,
    )
