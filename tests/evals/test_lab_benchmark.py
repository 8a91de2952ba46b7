"""Benchmark of the lab: all families and levels, graded responses, and failed responses as wrong ones."""

from collections import Counter
from collections.abc import Callable

import pytest

from tapir_exp.core.records import Response, example_id
from tapir_exp.evals.lab_benchmark import Prompts, grade, run_benchmark
from tapir_exp.lab.families import FAMILIES
from tapir_exp.lab.world import held_out_problems, is_held_out, recognise

CELLS = {(family.name, level) for family in FAMILIES for level in family.levels}


def respond_with(text: Callable[[str], str | None]) -> Callable[[Prompts], list[Response]]:
    """Return a student that responds with `text(instruction)`."""
    return lambda prompts: [Response(id=row_id, text=text(instruction)) for row_id, instruction in prompts]


def correct(instruction: str) -> str:
    recognised = recognise(instruction)
    assert recognised
    return recognised[1].refined


def slip(instruction: str) -> str:
    recognised = recognise(instruction)
    assert recognised
    return recognised[1].slip


def test_run_benchmark_covers_all_cells_with_held_out_problems() -> None:
    results = run_benchmark(3, 0, respond_with(correct))
    assert Counter((result.family, result.level) for result in results) == dict.fromkeys(CELLS, 3)
    recognised = [recognise(result.instruction) for result in results]
    assert all(pair and is_held_out(pair[1]) for pair in recognised)
    assert [pair and (pair[0].name, pair[0].task, pair[1].level) for pair in recognised] == [
        (result.family, result.task, result.level) for result in results
    ]


def test_run_benchmark_correct_responses_get_full_marks() -> None:
    results = run_benchmark(2, 0, respond_with(correct))
    assert all(result.exact and result.score == 10 for result in results)


def test_run_benchmark_wrong_responses_get_less() -> None:
    results = run_benchmark(2, 0, respond_with(slip))
    assert not any(result.exact or result.score > 8 for result in results)


@pytest.mark.parametrize("text", [None, "", " \n"])
def test_run_benchmark_failed_response_is_wrong_and_kept(text: str | None) -> None:
    results = run_benchmark(2, 0, respond_with(lambda _: text))
    assert len(results) == 2 * len(CELLS)
    assert not any(result.exact for result in results)
    assert {result.response for result in results} == {text or ""}
    assert all(1 <= result.score <= 5 for result in results)


def test_run_benchmark_single_failure_lowers_the_accuracy() -> None:
    first = held_out_problems(2, 0)[0][1].instruction
    results = run_benchmark(2, 0, respond_with(lambda text: None if text == first else correct(text)))
    assert [result.exact for result in results] == [False] + [True] * (len(results) - 1)


def test_grade_truncated_response_is_graded_as_is() -> None:
    family, problem = held_out_problems(1, 0)[0]
    assert grade(family, problem, Response(id="a", text=problem.terse, finished=False)).exact


def test_run_benchmark_sends_ids_and_instructions_in_order() -> None:
    received: list[tuple[str, str]] = []

    def student(prompts: Prompts) -> list[Response]:
        received.extend(prompts)
        return respond_with(correct)(prompts)

    results = run_benchmark(2, 0, student)
    assert [result.instruction for result in results] == [instruction for _, instruction in received]
    assert [row_id for row_id, _ in received] == [example_id(instruction) for _, instruction in received]


@pytest.mark.parametrize("subset", [slice(1, None), slice(0)])
def test_run_benchmark_wrong_number_of_responses_fails(subset: slice) -> None:
    with pytest.raises(ValueError, match="zip"):
        run_benchmark(1, 0, lambda prompts: respond_with(correct)(prompts)[subset])


def test_run_benchmark_seed_determines_the_problems() -> None:
    instructions = [
        [result.instruction for result in run_benchmark(2, seed, respond_with(correct))] for seed in (1, 1, 2)
    ]
    assert instructions[0] == instructions[1] != instructions[2]
