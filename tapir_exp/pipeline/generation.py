"""Stages in which a student generates: responses to instructions, and the lab benchmark."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from tapir_exp.core.records import Answer, Example, TrainingExample
from tapir_exp.core.store import Artifact, recipe_key
from tapir_exp.distillation.judge.streaming import Hear, Listen, unheard
from tapir_exp.evals.lab_benchmark import run_benchmark
from tapir_exp.lab.oracle import LAB_VERSION
from tapir_exp.pipeline.workspace import Bench, Product, generation_recipe


def answers(bench: Bench, round_number: int, student: Artifact, asked: Artifact, listen: Listen = unheard) -> Artifact:
    """What the student says to the instructions of `asked`: the seeds, or a round's mix. Rows: Answer.

    listen: lets the answers be written, and hears each of them as soon as it is finished.
    """
    row_type: type[Example] | type[TrainingExample] = Example if asked.stage == "seeds" else TrainingExample

    def make() -> Product:
        prompts = [(row.id, row.instruction) for row in asked.rows(row_type)]
        rows = listen(lambda hear: _answer(bench, student, prompts, f"S_{round_number} answers", hear))
        cut, empty = sum(not row.finished for row in rows), sum(row.text is None for row in rows)
        return Product(rows, {"cut": cut, "empty": empty})

    return bench.rows("answers", round_number, _answers_recipe(bench, student, asked), make, asks=False)


def answers_key(bench: Bench, student: Artifact, asked: Artifact) -> str:
    """The key that those answers have, or will have."""
    return recipe_key("answers", _answers_recipe(bench, student, asked))


def benchmark(bench: Bench, round_number: int, student: Artifact) -> Artifact:
    """The student on the lab's held-out problems. Rows: BenchmarkResult."""
    config, seed = bench.config.evals, bench.config.lab.seed

    def make() -> Product:
        label = f"S_{round_number} takes the benchmark"
        rows = run_benchmark(config.per_cell, seed, lambda prompts: _answer(bench, student, prompts, label))
        return Product(rows, {"exact": fmean(row.exact for row in rows)})

    recipe = {
        "student": student.key,
        "benchmark": {"per_cell": config.per_cell, "seed": seed, "lab": LAB_VERSION},
        "generation": generation_recipe(bench.config.student),
    }
    return bench.rows("benchmark", round_number, recipe, make)


def _answers_recipe(bench: Bench, student: Artifact, asked: Artifact) -> dict[str, Any]:
    return {"student": student.key, "asked": asked.key, "generation": generation_recipe(bench.config.student)}


def _answer(
    bench: Bench, student: Artifact, prompts: Sequence[tuple[str, str]], label: str, hear: Hear | None = None
) -> list[Answer]:
    from tapir_exp.student.generate import answer_all

    return answer_all(student.path, prompts, bench.config.student, label, hear)
