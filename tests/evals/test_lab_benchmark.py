"""The lab's benchmark: every cell asked, every answer graded, and no answer is a wrong one."""

from collections import Counter
from collections.abc import Callable

import pytest

from tapir_exp.core.records import Response, example_id
from tapir_exp.evals.lab_benchmark import Prompts, grade, run_benchmark
from tapir_exp.lab.families import FAMILIES
from tapir_exp.lab.world import held_out_problems, is_held_out, recognise

CELLS = {(family.name, level) for family in FAMILIES for level in family.levels}


def answering(text: Callable[[str], str | None]) -> Callable[[Prompts], list[Response]]:
    """A student that says `text(instruction)`."""
    return lambda prompts: [Response(id=row, text=text(instruction)) for row, instruction in prompts]


def right(instruction: str) -> str:
    known = recognise(instruction)
    assert known
    return known[1].refined


def slip(instruction: str) -> str:
    known = recognise(instruction)
    assert known
    return known[1].slip


def test_every_family_is_asked_at_every_level_off_the_training_split() -> None:
    results = run_benchmark(3, 0, answering(right))
    assert Counter((result.family, result.level) for result in results) == dict.fromkeys(CELLS, 3)
    found = [recognise(result.instruction) for result in results]
    assert all(known and is_held_out(known[1]) for known in found)
    assert [known and (known[0].name, known[0].task, known[1].level) for known in found] == [
        (result.family, result.task, result.level) for result in results
    ]


def test_right_answers_are_exact_with_full_marks() -> None:
    results = run_benchmark(2, 0, answering(right))
    assert all(result.exact and result.score == 10 for result in results)


def test_slips_are_wrong_with_less() -> None:
    results = run_benchmark(2, 0, answering(slip))
    assert not any(result.exact or result.score > 8 for result in results)


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_no_answer_is_a_wrong_one_and_not_skipped(text: str | None) -> None:
    results = run_benchmark(2, 0, answering(lambda _: text))
    assert len(results) == 2 * len(CELLS)
    assert not any(result.exact for result in results)
    assert {result.response for result in results} == {text or ""}
    assert all(1 <= result.score <= 5 for result in results)


def test_a_failure_among_right_answers_counts_against_them() -> None:
    first = held_out_problems(2, 0)[0][1].instruction
    results = run_benchmark(2, 0, answering(lambda asked: None if asked == first else right(asked)))
    assert [result.exact for result in results] == [False] + [True] * (len(results) - 1)


def test_an_answer_cut_at_its_limit_is_graded_as_it_stands() -> None:
    family, problem = held_out_problems(1, 0)[0]
    assert grade(family, problem, Response(id="a", text=problem.terse, finished=False)).exact


def test_the_student_is_given_ids_and_bare_instructions_in_the_order_of_the_results() -> None:
    asked: list[tuple[str, str]] = []

    def student(prompts: Prompts) -> list[Response]:
        asked.extend(prompts)
        return answering(right)(prompts)

    results = run_benchmark(2, 0, student)
    assert [result.instruction for result in results] == [instruction for _, instruction in asked]
    assert [row for row, _ in asked] == [example_id(instruction) for _, instruction in asked]


@pytest.mark.parametrize("keep", [slice(1, None), slice(0)])
def test_answers_that_do_not_match_the_problems_are_an_error(keep: slice) -> None:
    with pytest.raises(ValueError, match="zip"):
        run_benchmark(1, 0, lambda prompts: answering(right)(prompts)[keep])


def test_the_seed_decides_the_problems() -> None:
    posed = [[result.instruction for result in run_benchmark(2, seed, answering(right))] for seed in (1, 1, 2)]
    assert posed[0] == posed[1] != posed[2]
