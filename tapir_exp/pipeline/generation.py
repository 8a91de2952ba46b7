"""Stages in which a student generates: responses to instructions, and the lab benchmark."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from tapir_exp.core.records import Example, Response, TrainingExample
from tapir_exp.core.store import Artifact, recipe_key
from tapir_exp.distillation.judge.streaming import Hear, Listen, unheard
from tapir_exp.evals.lab_benchmark import run_benchmark
from tapir_exp.lab.oracle import LAB_VERSION
from tapir_exp.pipeline.workspace import StageOutput, Workspace, generation_recipe


def student_responses(
    ws: Workspace, round_number: int, student: Artifact, asked: Artifact, listen: Listen = unheard
) -> Artifact:
    """What the student says to the instructions of `asked`: the seeds, or a round's mix. Rows: Answer.

    listen: lets the answers be written, and hears each of them as soon as it is finished.
    """
    row_type: type[Example] | type[TrainingExample] = Example if asked.stage == "seeds" else TrainingExample

    def make() -> StageOutput:
        prompts = [(row.id, row.instruction) for row in asked.rows(row_type)]
        rows = listen(lambda hear: _generate(ws, student, prompts, f"S_{round_number} answers", hear))
        cut, empty = sum(not row.finished for row in rows), sum(row.text is None for row in rows)
        return StageOutput(rows, {"cut": cut, "empty": empty})

    return ws.rows("student_responses", round_number, _responses_recipe(ws, student, asked), make, asks=False)


def student_responses_key(ws: Workspace, student: Artifact, asked: Artifact) -> str:
    """The key that those answers have, or will have."""
    return recipe_key("student_responses", _responses_recipe(ws, student, asked))


def run_lab_benchmark(ws: Workspace, round_number: int, student: Artifact) -> Artifact:
    """The student on the lab's held-out problems. Rows: BenchmarkResult."""
    config, seed = ws.config.evals, ws.config.lab.seed

    def make() -> StageOutput:
        label = f"S_{round_number} takes the benchmark"
        rows = run_benchmark(config.problems_per_level, seed, lambda prompts: _generate(ws, student, prompts, label))
        return StageOutput(rows, {"exact": fmean(row.exact for row in rows)})

    recipe = {
        "student": student.key,
        "benchmark": {"per_cell": config.problems_per_level, "seed": seed, "lab": LAB_VERSION},
        "generation": generation_recipe(ws.config.student),
    }
    return ws.rows("benchmark", round_number, recipe, make)


def _responses_recipe(ws: Workspace, student: Artifact, asked: Artifact) -> dict[str, Any]:
    return {"student": student.key, "asked": asked.key, "generation": generation_recipe(ws.config.student)}


def _generate(
    ws: Workspace, student: Artifact, prompts: Sequence[tuple[str, str]], label: str, hear: Hear | None = None
) -> list[Response]:
    from tapir_exp.student.generate import generate_responses

    return generate_responses(student.path, prompts, ws.config.student, label, hear)
