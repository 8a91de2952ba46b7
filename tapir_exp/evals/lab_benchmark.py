"""The lab's benchmark: held-out problems of every family and level, graded for the exact answer."""

from collections.abc import Callable, Sequence

from tapir_exp.core.records import BenchmarkResult, Response, example_id
from tapir_exp.lab.family import Family, Problem
from tapir_exp.lab.world import held_out_problems

Prompts = Sequence[tuple[str, str]]


def run_benchmark(per_cell: int, seed: int, answer: Callable[[Prompts], list[Response]]) -> list[BenchmarkResult]:
    """Put `per_cell` held-out problems of each family and level to a student and grade what it answers.

    answer: takes (id, instruction) pairs and gives one Answer each, in order.
    """
    problems = held_out_problems(per_cell, seed)
    answers = answer([(example_id(problem.instruction), problem.instruction) for _, problem in problems])
    return [grade(*posed, given) for posed, given in zip(problems, answers, strict=True)]


def grade(family: Family, problem: Problem, given: Response) -> BenchmarkResult:
    """What the grader makes of one answer; no answer is a wrong one."""
    response = given.text or ""
    return BenchmarkResult(
        family=family.name,
        task=family.task,
        level=problem.level,
        instruction=problem.instruction,
        expected=problem.answer,
        response=response,
        exact=family.is_exact(problem, response),
        score=family.grade(problem, response).score,
    )
