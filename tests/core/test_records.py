"""Rows convert into each other without losing their origin."""

from fakes import example, training_row

from tapir_exp.core.records import Example, Origin, Subset, TrainingExample, example_id
from tapir_exp.core.task_types import TaskType


def test_to_example_restores_the_example_of_a_row() -> None:
    assert training_row("new", parents=("p", "q"), created_in_round=3).to_example() == Example(
        id=example_id("new"),
        instruction="new",
        response="a response",
        origin=Origin.EXPANSION,
        parents=("p", "q"),
        round=3,
    )


def test_from_example_keeps_origin_and_parents() -> None:
    row = training_row("new", parents=("p", "q"), created_in_round=3, difficulty=2.5)
    assert TrainingExample.from_example(row.to_example(), TaskType.MATH, Subset.HARD, 2.5) == row


def test_from_seed_has_no_type_and_no_difficulty() -> None:
    row = TrainingExample.from_seed(example("Add 1 and 2.", "3"))
    assert (row.instruction, row.response) == ("Add 1 and 2.", "3")
    assert (row.task, row.subset, row.difficulty) == (None, Subset.REST, None)
    assert (row.origin, row.parents, row.created_in_round) == (Origin.SEED, (), 0)
