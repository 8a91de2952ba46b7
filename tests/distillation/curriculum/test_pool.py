"""The pool holds rows with a type, a teacher's response and a latest gap, and records every instruction seen."""

from collections import Counter

import pytest
from fakes import example, plan_settings, training_row

from tapir_exp.core.records import Example, Label, Origin, Response, Subset, TrainingExample, example_id
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.curriculum.pool import MIN_WEIGHT, Pool, PoolRow, seed_pool
from tapir_exp.distillation.curriculum.sampling import plan_round

A, B, C = (example(name, response=f"the dataset's {name}") for name in "abc")
MATH, LAW = TaskType.MATH, TaskType.LAW


def label(seed: Example, task: TaskType | None) -> Label:
    return Label(id=seed.id, task=task, raw="", failure=None if task else "unreadable reply")


def response(seed: Example, text: str | None = "the teacher's") -> Response:
    return Response(id=seed.id, text=text, failure=None if text else "time-out")


def pool_of(*rows: tuple[Example, TaskType, float]) -> Pool:
    seen = frozenset(seed.instruction for seed, _, _ in rows)
    return Pool({seed.id: PoolRow(seed, task, gap) for seed, task, gap in rows}, seen, ("seeds",))


def test_seed_pool_row_has_teacher_response_type_and_gap() -> None:
    pool = seed_pool([A], [label(A, MATH)], [response(A)], {A.id: 4.5}, ["seeds", "verdicts"])
    assert pool.rows == {A.id: PoolRow(A.model_copy(update={"response": "the teacher's"}), MATH, 4.5)}
    assert pool.seen == {"a"}
    assert pool.keys == ("seeds", "verdicts")


@pytest.mark.parametrize(
    ("labels", "responses", "gaps"),
    [
        ([label(B, None)], [response(B)], {B.id: 3.0}),
        ([], [response(B)], {B.id: 3.0}),
        ([label(B, LAW)], [response(B, None)], {B.id: 3.0}),
        ([label(B, LAW)], [], {B.id: 3.0}),
        ([label(B, LAW)], [response(B)], {}),
    ],
    ids=["unlabelled", "no label", "failed response", "no response", "unscored"],
)
def test_seed_pool_skips_an_incomplete_seed(
    labels: list[Label], responses: list[Response], gaps: dict[str, float]
) -> None:
    pool = seed_pool([A, B], [label(A, MATH), *labels], [response(A), *responses], {A.id: 0.0, **gaps}, [])
    assert list(pool.rows) == [A.id]
    assert pool.seen == {"a", "b"}


def test_seed_pool_keeps_the_order_of_the_seeds() -> None:
    labels, responses = [label(seed, MATH) for seed in (C, B, A)], [response(seed) for seed in (B, C, A)]
    gaps = {seed.id: 1.0 for seed in (B, A, C)}
    assert list(seed_pool([A, B, C], labels, responses, gaps, []).rows) == [A.id, B.id, C.id]


@pytest.mark.parametrize("guided", [True, False])
def test_candidates_carry_their_subset(guided: bool) -> None:
    candidates = pool_of((A, MATH, 5.0), (B, LAW, 1.0)).candidates(frozenset({A.id}), guided=guided)
    assert [(c.example, c.task, c.difficulty, c.subset) for c in candidates] == [
        (A, MATH, 5.0, Subset.HARD),
        (B, LAW, 1.0, Subset.REST),
    ]


def test_candidates_guided_weigh_hard_rows_by_gap() -> None:
    pool = pool_of((A, MATH, 5.0), (B, LAW, 1.5), (C, LAW, -3.0))
    assert [c.weight for c in pool.candidates(frozenset({A.id, B.id}), guided=True)] == [5.0, 1.5, 1.0]
    assert [c.weight for c in pool.candidates(frozenset(), guided=True)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("gap", [MIN_WEIGHT / 2, 0.0, -9.0])
def test_candidates_guided_give_small_gaps_the_minimum_weight(gap: float) -> None:
    (only,) = pool_of((A, MATH, gap)).candidates(frozenset({A.id}), guided=True)
    assert only.weight == MIN_WEIGHT > 0
    assert plan_round([only], plan_settings({MATH: 1.0}, 1, 1.0)).drawn == (only,)


def test_candidates_unguided_have_equal_weights() -> None:
    pool = pool_of((A, MATH, 9.0), (B, MATH, 0.5), (C, MATH, -9.0))
    for hard in (frozenset({A.id, B.id, C.id}), frozenset({B.id}), frozenset[str]()):
        assert [c.weight for c in pool.candidates(hard, guided=False)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("guided", "share"), [(True, 0.9), (False, 0.5)])
def test_plan_draw_follows_gaps_only_if_guided(guided: bool, share: float) -> None:
    candidates = pool_of((A, MATH, 9.0), (B, MATH, 1.0)).candidates(frozenset({A.id, B.id}), guided=guided)
    plans = [plan_round(candidates, plan_settings({MATH: 1.0}, 1, 1.0, seed)) for seed in range(1000)]
    drawn = Counter(plan.drawn[0].example.id for plan in plans)
    assert drawn[A.id] / 1000 == pytest.approx(share, abs=0.065)  # 4 sd


def test_natural_mix_counts_seeds_only() -> None:
    new = example("new", origin=Origin.EXPANSION)
    pool = pool_of((A, MATH, 5.0), (B, LAW, 1.0), (C, LAW, 1.0), (new, TaskType.ART, 1.0))
    assert pool.natural == {MATH: pytest.approx(1 / 3), LAW: pytest.approx(2 / 3)}


def test_update_replaces_gaps_and_keeps_responses() -> None:
    pool = pool_of((A, MATH, 5.0), (B, LAW, 1.0))
    after = pool.update([], {A.id: -0.5}, ["verdicts-1"])
    assert after.rows[A.id] == PoolRow(A, MATH, -0.5)
    assert after.rows[B.id] == PoolRow(B, LAW, 1.0)
    assert after.difficulties == {A.id: -0.5, B.id: 1.0}
    assert after.keys == ("seeds", "verdicts-1")
    assert after.seen == pool.seen == {"a", "b"}
    assert pool.difficulties == {A.id: 5.0, B.id: 1.0}


def test_update_adds_a_scored_expansion_with_its_parents() -> None:
    new = training_row("new", response="unrefined", task=LAW, parents=(A.id, B.id), created_in_round=2)
    after = pool_of((A, MATH, 5.0)).update([new], {new.id: 2.5}, [])
    expected = Example(
        id=example_id("new"),
        instruction="new",
        response="unrefined",
        origin=Origin.EXPANSION,
        parents=(A.id, B.id),
        round=2,
    )
    assert after.rows[new.id] == PoolRow(expected, LAW, 2.5)
    assert list(after.rows) == [A.id, new.id]
    assert after.seen == {"a", "new"}


@pytest.mark.parametrize(
    ("new", "gaps"),
    [(training_row("new"), {}), (training_row("new", task=None), {example_id("new"): 2.0})],
    ids=["unscored", "unlabelled"],
)
def test_update_skips_an_incomplete_expansion(new: TrainingExample, gaps: dict[str, float]) -> None:
    after = pool_of((A, MATH, 5.0)).update(iter([new]), gaps, [])
    assert list(after.rows) == [A.id]
    assert after.seen == {"a", "new"}  # if the teacher proposes it again, it is a repeat


def test_update_accumulates_seen_instructions() -> None:
    pool = Pool({}, frozenset({"a lost seed"}), ())
    for number in range(3):
        pool = pool.update([training_row(f"new {number}")], {}, [])
    assert pool.seen == {"a lost seed", "new 0", "new 1", "new 2"}
    assert pool.rows == {}


def test_update_ignores_scores_of_unknown_rows() -> None:
    pool = pool_of((A, MATH, 5.0))
    assert pool.update([], {"unknown": 9.0}, []).rows == pool.rows
