"""The pool holds what has a type, a teacher's response and a gap, each row with its latest gap."""

import pytest
from fakes import example, training_row

from tapir_exp.pool import Pool, PoolRow, example_of, seed_pool
from tapir_exp.records import Answer, Example, Label, Origin, Part, TrainingExample, example_id
from tapir_exp.taxonomy import TaskType

A, B, C = (example(name, response=f"the dataset's {name}") for name in "abc")
MATH, LAW = TaskType.MATH, TaskType.LAW


def label(seed: Example, task: TaskType | None) -> Label:
    return Label(id=seed.id, task=task, raw="", failure=None if task else "unreadable reply")


def answer(seed: Example, text: str | None = "the teacher's") -> Answer:
    return Answer(id=seed.id, text=text, failure=None if text else "time-out")


def pool_of(*rows: tuple[Example, TaskType, float]) -> Pool:
    return Pool({seed.id: PoolRow(seed, task, gap) for seed, task, gap in rows}, ("seeds",))


def test_a_seed_enters_with_the_teachers_response_its_type_and_its_gap() -> None:
    pool = seed_pool([A], [label(A, MATH)], [answer(A)], {A.id: 4.5}, ["seeds", "verdicts"])
    assert pool.rows == {A.id: PoolRow(A.model_copy(update={"response": "the teacher's"}), MATH, 4.5)}
    assert pool.keys == ("seeds", "verdicts")


@pytest.mark.parametrize(
    ("labels", "answers", "gaps"),
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
    labels: list[Label], answers: list[Answer], gaps: dict[str, float]
) -> None:
    pool = seed_pool([A, B], [label(A, MATH), *labels], [answer(A), *answers], {A.id: 0.0, **gaps}, [])
    assert list(pool.rows) == [A.id]


def test_rows_keep_the_order_of_the_seeds() -> None:
    labels, answers = [label(seed, MATH) for seed in (C, B, A)], [answer(seed) for seed in (B, C, A)]
    gaps = {seed.id: 1.0 for seed in (B, A, C)}
    assert list(seed_pool([A, B, C], labels, answers, gaps, []).rows) == [A.id, B.id, C.id]


def test_candidates_tell_the_hard_set_from_the_rest() -> None:
    found = pool_of((A, MATH, 5.0), (B, LAW, 1.0)).candidates(frozenset({A.id}))
    assert [(c.example, c.task, c.gap, c.part) for c in found] == [(A, MATH, 5.0, Part.HARD), (B, LAW, 1.0, Part.REST)]


def test_the_natural_mix_is_that_of_the_seeds_alone() -> None:
    new = example("new", origin=Origin.EXPANSION)
    pool = pool_of((A, MATH, 5.0), (B, LAW, 1.0), (C, LAW, 1.0), (new, TaskType.ART, 1.0))
    assert pool.natural == {MATH: pytest.approx(1 / 3), LAW: pytest.approx(2 / 3)}


def test_after_a_round_a_rescored_row_has_its_new_gap_and_keeps_the_unrefined_response() -> None:
    pool = pool_of((A, MATH, 5.0), (B, LAW, 1.0))
    after = pool.after([], {A.id: -0.5}, ["verdicts-1"])
    assert after.rows[A.id] == PoolRow(A, MATH, -0.5)
    assert after.rows[B.id] == PoolRow(B, LAW, 1.0)
    assert after.gaps == {A.id: -0.5, B.id: 1.0}
    assert after.keys == ("seeds", "verdicts-1")
    assert pool.gaps == {A.id: 5.0, B.id: 1.0}


def test_after_a_round_a_scored_new_row_is_in_the_pool_with_its_lineage() -> None:
    new = training_row("new", response="unrefined", task=LAW, parents=(A.id, B.id), born=2)
    after = pool_of((A, MATH, 5.0)).after([new], {new.id: 2.5}, [])
    born = Example(
        id=example_id("new"),
        instruction="new",
        response="unrefined",
        origin=Origin.EXPANSION,
        parents=(A.id, B.id),
        round=2,
    )
    assert after.rows[new.id] == PoolRow(born, LAW, 2.5)
    assert list(after.rows) == [A.id, new.id]


@pytest.mark.parametrize(
    ("new", "gaps"),
    [(training_row("new"), {}), (training_row("new", task=None), {example_id("new"): 2.0})],
    ids=["unscored", "unlabelled"],
)
def test_after_a_round_a_new_row_that_lacks_anything_does_not_enter(
    new: TrainingExample, gaps: dict[str, float]
) -> None:
    assert list(pool_of((A, MATH, 5.0)).after([new], gaps, []).rows) == [A.id]


def test_a_gap_of_a_row_that_is_not_known_changes_nothing() -> None:
    pool = pool_of((A, MATH, 5.0))
    assert pool.after([], {"unknown": 9.0}, []).rows == pool.rows


def test_an_example_comes_back_out_of_its_training_row() -> None:
    assert example_of(training_row("new", parents=("p", "q"), born=3)) == Example(
        id=example_id("new"),
        instruction="new",
        response="a response",
        origin=Origin.EXPANSION,
        parents=("p", "q"),
        round=3,
    )
