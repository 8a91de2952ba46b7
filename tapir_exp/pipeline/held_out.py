"""Every student of a run on instructions kept out of its training: beside the student before it, by the judge in both
orders, and by its surprise at the teacher's responses.

What the base model itself says comes first, so that S_0 has a student before it, too.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tapir_exp.core.errors import ConfigError
from tapir_exp.core.records import Example, Response
from tapir_exp.core.store import Artifact
from tapir_exp.data.seeds import load_seeds, source_digest
from tapir_exp.distillation import teacher
from tapir_exp.distillation.judge.requests import ResponsePair
from tapir_exp.pipeline.scoring import ScoringInputs, held_out_losses, held_out_verdicts
from tapir_exp.pipeline.workspace import StageOutput, Workspace, generation_recipe, role_recipe


@dataclass(frozen=True)
class HeldOut:
    """The instructions, and what the teacher says to them."""

    rows: Artifact
    responses: Artifact


def hold_out(ws: Workspace, seeds: Artifact) -> Artifact:
    """So many clean rows of the seeds' source that are no seeds, drawn by the seed after theirs. Rows: Example.

    Raises ConfigError where the seeds leave fewer of the source.
    """
    config, wanted = ws.config.seeds, ws.config.evals.held_out_size
    size = None if config.size is None else config.size + wanted
    drawn = replace(config, size=size, seed=config.seed + 1)

    def make() -> StageOutput:
        trained = {seed.id for seed in seeds.rows(Example)}
        left = [row for row in load_seeds(drawn) if row.id not in trained]
        if len(left) < wanted:
            told = f"expected at most the {len(left)} clean rows that the seeds leave; a smaller seeds.size leaves more"
            raise ConfigError([f"evals.held_out_size = {wanted}: {told}"])
        return StageOutput(left[:wanted], {})

    recipe = {"seeds": seeds.key, "drawn": asdict(drawn), "source": source_digest(config)}
    return ws.rows("held_out", None, recipe, make)


def ask_teacher(ws: Workspace, rows: Artifact) -> HeldOut:
    """The teacher's own responses to them. Rows: Answer."""
    config = ws.config.teacher

    def make() -> StageOutput:
        told = teacher.respond(rows.rows(Example), ws.teacher, config, "the teacher answers what is kept out")
        return StageOutput(told, {"failed": sum(row.text is None for row in told)})

    recipe = {"rows": rows.key, "teacher": role_recipe(ws.teacher, config)}
    return HeldOut(rows, ws.rows("held_out_teacher_responses", None, recipe, make))


def evaluate_base(ws: Workspace, held: HeldOut, base: Path, identity: Mapping[str, Any]) -> Artifact:
    """What the base model says, before any fit of ours. Rows: Answer."""
    return _answers(ws, "base_responses", None, held, base, identity)


def compare_with_previous(ws: Workspace, number: int, student: Artifact, held: HeldOut, before: Artifact) -> Artifact:
    """S_r beside what the student before it said; returns the answers of S_r. Rows: Answer."""
    answers = _answers(ws, "held_out_student_responses", number, held, student.path, {"student": student.key})
    rows = held.rows.rows(Example)
    first, second = ({row.id: row.text or "" for row in given.rows(Response)} for given in (before, answers))
    matches = [ResponsePair(row.id, row.instruction, first[row.id], second[row.id]) for row in rows]
    held_out_verdicts(ws, ScoringInputs(number, student, matches, (before.key, answers.key)))
    told = {row.id: row.text for row in held.responses.rows(Response)}
    taught = [ResponsePair(row.id, row.instruction, text, "") for row in rows if (text := told[row.id]) is not None]
    held_out_losses(ws, ScoringInputs(number, student, taught, (held.responses.key,)))
    return answers


def _answers(
    ws: Workspace, stage: str, number: int | None, held: HeldOut, student: Path, identity: Mapping[str, Any]
) -> Artifact:
    config = ws.config.student

    def make() -> StageOutput:
        from tapir_exp.student.generate import generate_responses

        prompts = [(row.id, row.instruction) for row in held.rows.rows(Example)]
        who = "the base model" if number is None else f"S_{number}"
        rows = generate_responses(student, prompts, config, f"{who} answers what is kept out")
        return StageOutput(
            rows, {"cut": sum(not row.finished for row in rows), "empty": sum(row.text is None for row in rows)}
        )

    recipe = {**identity, "asked": held.rows.key, "generation": generation_recipe(config)}
    return ws.rows(stage, number, recipe, make)
