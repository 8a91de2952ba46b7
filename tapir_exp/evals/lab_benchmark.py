"""Benchmark of the lab: held-out problems of every family and level, graded for the exact answer."""

from collections.abc import Callable, Sequence

from tapir_exp.config import WorldName
from tapir_exp.core.records import BenchmarkResult, Response, example_id
from tapir_exp.lab.family import Family, Problem
from tapir_exp.lab.world import held_out_problems

Prompts = Sequence[tuple[str, str]]
"""Pairs of an id and an instruction."""


def run_benchmark(
    problems_per_level: int,
    seed: int,
    respond: Callable[[Prompts], Sequence[Response]],
    world: WorldName = WorldName.default,
) -> list[BenchmarkResult]:
    """Send held-out problems to a student and grade its responses.

    Args:
        problems_per_level: Problems of each family at each level.
        seed: Seed of the problems.
        respond: Returns one response for each prompt, in order.
        world: World of the problems.

    Raises:
        ValueError: If `respond` returns another number of responses.
    """
    problems = held_out_problems(problems_per_level, seed, world)
    responses = respond([(example_id(problem.instruction), problem.instruction) for _, problem in problems])
    return [grade(family, problem, response) for (family, problem), response in zip(problems, responses, strict=True)]


def grade(family: Family, problem: Problem, response: Response) -> BenchmarkResult:
    """Grade one response. A failed response counts as a wrong one."""
    # A skipped failure would raise the accuracy, so it is graded as an empty text.
    text = response.text or ""
    return BenchmarkResult(
        family=family.name,
        task=family.task,
        level=problem.level,
        instruction=problem.instruction,
        expected=problem.answer,
        response=text,
        exact=family.is_exact(problem, text),
        score=family.grade(problem, text).score,
    )
