"""Stages in which a student generates: responses to instructions, and the lab benchmark."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tapir_exp.core.records import Example, Response, TrainingExample
from tapir_exp.core.store import Artifact, recipe_key
from tapir_exp.core.stored_rows import LazySequence, RowLog
from tapir_exp.evals.lab_benchmark import run_benchmark
from tapir_exp.lab.oracle import world_version
from tapir_exp.pipeline.workspace import StageOutput, Workspace, generation_recipe


def student_responses(
    ws: Workspace,
    round_number: int,
    student: Artifact,
    instructions: Artifact,
    row_type: type[Example] | type[TrainingExample],
    on_response: Callable[[Response], None] | None = None,
    prefix: str = "",
) -> Artifact:
    """Generate the student's responses to the seeds, or to training rows. Rows: Response.

    Args:
        ws: The workspace of the run.
        round_number: The round that the student comes from.
        student: The student.
        instructions: The rows that hold the instructions.
        row_type: Type of those rows.
        on_response: Called with every response as soon as it is finished; not called if the responses are reused.
        prefix: Start of the name of the stage; with one, the student is of the round before.
    """
    return generate_stage(
        ws,
        f"{prefix}student_responses",
        round_number,
        student.path,
        {"student": student.key},
        instructions,
        row_type,
        f"S_{round_number - 1}: responses to new rows" if prefix else f"S_{round_number}: responses",
        on_response,
    )


def student_responses_key(ws: Workspace, student: Artifact, instructions: Artifact, prefix: str = "") -> str:
    """Return the key of those responses, whether or not they exist."""
    return recipe_key(f"{prefix}student_responses", _responses_recipe(ws, {"student": student.key}, instructions))


def generate_stage(
    ws: Workspace,
    stage: str,
    round_number: int | None,
    model_dir: Path,
    identity: Mapping[str, Any],
    instructions: Artifact,
    row_type: type[Example] | type[TrainingExample],
    label: str,
    on_response: Callable[[Response], None] | None = None,
) -> Artifact:
    """Run a stage that generates one response to every instruction; see `student_responses`. Rows: Response.

    Args:
        ws: The workspace of the run.
        stage: Name of the stage.
        round_number: Round of the stage; None if it belongs to no round.
        model_dir: Directory or hub id of the model that responds.
        identity: The part of the recipe that determines the model.
        instructions: The rows that hold the instructions.
        row_type: Type of those rows.
        label: Name of the progress bar.
        on_response: Called with every response as soon as it is finished.
    """

    def make(kept: RowLog[Response]) -> StageOutput:
        stored = instructions.stored_rows(row_type)
        prompts = LazySequence(len(stored), lambda index: ((row := stored[index]).id, row.instruction))
        rows = _generate(ws, model_dir, prompts, label, kept, on_response)
        return StageOutput(rows, response_figures(rows))

    return ws.logged_rows(stage, round_number, _responses_recipe(ws, identity, instructions), Response, make)


def run_lab_benchmark(ws: Workspace, round_number: int, student: Artifact) -> Artifact:
    """Grade the student on the lab's benchmark problems. Rows: BenchmarkResult."""
    config, seed, world = ws.config.evals, ws.config.lab.seed, ws.config.lab.world
    label = f"S_{round_number}: benchmark"

    def make(kept: RowLog[Response]) -> StageOutput:
        rows = run_benchmark(
            config.problems_per_level, seed, lambda prompts: _generate(ws, student.path, prompts, label, kept), world
        )
        return StageOutput(rows, {"exact": fmean(row.exact for row in rows)})

    recipe = {
        "student": student.key,
        "benchmark": {"per_cell": config.problems_per_level, "seed": seed, "lab": world_version(world)},
        "generation": generation_recipe(ws.config.student),
    }
    return ws.logged_rows("benchmark", round_number, recipe, Response, make)


def response_figures(responses: Sequence[Response]) -> dict[str, int]:
    """Return how many responses were cut off at the length limit, and how many are missing."""
    cut = empty = 0
    for response in responses:
        cut += not response.finished
        empty += response.text is None
    return {"cut": cut, "empty": empty}


def _responses_recipe(ws: Workspace, identity: Mapping[str, Any], instructions: Artifact) -> dict[str, Any]:
    return {**identity, "asked": instructions.key, "generation": generation_recipe(ws.config.student)}


def _generate(
    ws: Workspace,
    model_dir: Path,
    prompts: Sequence[tuple[str, str]],
    label: str,
    kept: RowLog[Response],
    on_response: Callable[[Response], None] | None = None,
) -> Sequence[Response]:
    # Imported here, since it loads torch, which a run that reuses its responses does not need.
    from tapir_exp.student.generate import generate_responses

    return generate_responses(model_dir, prompts, ws.config.student, label, on_response, kept)
