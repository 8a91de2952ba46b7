"""Evaluate each student on held-out instructions: win rate against its predecessor, perplexity on teacher responses."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tapir_exp.core.errors import ConfigError
from tapir_exp.core.records import Example, Response
from tapir_exp.core.store import Artifact
from tapir_exp.data.seeds import load_seeds, seeds_recipe, source_digest
from tapir_exp.distillation import teacher
from tapir_exp.distillation.judge.requests import ResponsePair
from tapir_exp.pipeline import generation
from tapir_exp.pipeline.measures import ScoringInputs, held_out_losses, held_out_verdicts
from tapir_exp.pipeline.response_gate import check_responses
from tapir_exp.pipeline.students import ParentModel
from tapir_exp.pipeline.workspace import StageOutput, Workspace, role_recipe


@dataclass(frozen=True)
class HeldOut:
    """Held-out instructions, and the teacher's responses to them."""

    rows: Artifact
    responses: Artifact


class HeldOutTracker:
    """Compares every student with its predecessor on held-out instructions; does nothing if none are configured.

    The base model comes first, so that S_0 has a predecessor, too.

    Attributes:
        instructions: The held-out instructions, which no training row may repeat.
    """

    def __init__(self, ws: Workspace, seeds: Artifact, base: ParentModel, base_identity: Mapping[str, Any]) -> None:
        """Make the held-out rows, the teacher's responses and those of the base model.

        Args:
            ws: The workspace of the run.
            seeds: The seeds, which are not held out.
            base: The base model.
            base_identity: The part of a recipe that determines the base model.

        Raises:
            ConfigError: If the seeds leave too few rows of their source.
        """
        self.instructions: frozenset[str] = frozenset()
        self._ws = ws
        self._held: HeldOut | None = None
        if not ws.config.evals.held_out_size:
            return
        rows = hold_out(ws, seeds)
        self.instructions = frozenset(row.instruction for row in rows.rows(Example))
        self._held = ask_teacher(ws, rows)
        self._previous = generation.generate_stage(
            ws, "base_responses", None, base.path, base_identity, rows, Example, "base model: held-out responses"
        )

    def compare(self, round_number: int, student: Artifact) -> None:
        """Compare the student of a round with the one before it."""
        if self._held is not None:
            self._previous = compare_with_previous(self._ws, round_number, student, self._held, self._previous)


def hold_out(ws: Workspace, seeds: Artifact) -> Artifact:
    """Draw clean rows of the seeds' source that are no seeds. Rows: Example.

    Raises:
        ConfigError: If the seeds leave too few rows of their source.
    """
    config, size = ws.config.seeds, ws.config.evals.held_out_size
    # As many rows as seeds and held-out rows together are certain to include enough rows that are no seeds.
    wanted = None if config.size is None else config.size + size
    drawn = replace(config, size=wanted, reserve=0, seed=config.seed + 1)

    def make() -> StageOutput:
        seed_ids = {seed.id for seed in seeds.stored_rows(Example)}
        # Another seed draws another order, so the held-out rows are a random sample of the rest.
        rest = [row for row in load_seeds(drawn) if row.id not in seed_ids]
        if len(rest) < size:
            expected = (
                f"expected at most {len(rest)}, the clean rows that the seeds leave; a smaller seeds.size leaves more"
            )
            raise ConfigError([f"evals.held_out_size = {size}: {expected}"])
        return StageOutput(rest[:size], {})

    recipe = {"seeds": seeds.key, "drawn": seeds_recipe(drawn), "source": source_digest(config)}
    return ws.rows("held_out", None, recipe, make)


def ask_teacher(ws: Workspace, rows: Artifact) -> HeldOut:
    """Ask the teacher for its responses to the held-out instructions. Rows: Response."""
    config = ws.config.teacher

    def make() -> StageOutput:
        responses = teacher.respond(rows.rows(Example), ws.teacher, config, "teacher: held-out responses")
        return StageOutput(responses, {"failed": sum(response.text is None for response in responses)})

    recipe = {"rows": rows.key, "teacher": role_recipe(ws.teacher, config)}
    return HeldOut(rows, ws.rows("held_out_teacher_responses", None, recipe, make))


def compare_with_previous(
    ws: Workspace, round_number: int, student: Artifact, held: HeldOut, previous: Artifact
) -> Artifact:
    """Judge a student against its predecessor, measure its loss on the teacher's responses, and return its responses.

    Args:
        ws: The workspace of the run.
        round_number: The round that the student comes from.
        student: The student.
        held: The held-out instructions.
        previous: Responses of the predecessor.

    Returns:
        The student's responses. Rows: Response.
    """
    responses = generation.generate_stage(
        ws,
        "held_out_student_responses",
        round_number,
        student.path,
        {"student": student.key},
        held.rows,
        Example,
        f"S_{round_number}: held-out responses",
    )
    check_responses(responses.rows(Response), ws.config, f"S_{round_number}, held-out instructions")
    rows = held.rows.rows(Example)
    # The predecessor takes the teacher's place in the pairs, so a negative gap means that this student is better.
    texts_a, texts_b = ({row.id: row.text or "" for row in of.rows(Response)} for of in (previous, responses))
    pairs = [ResponsePair(row.id, row.instruction, texts_a[row.id], texts_b[row.id]) for row in rows]
    held_out_verdicts(ws, ScoringInputs(round_number, student, pairs, (previous.key, responses.key)))
    taught = {response.id: response.text for response in held.responses.rows(Response)}
    examples = [row.model_copy(update={"response": text}) for row in rows if (text := taught[row.id]) is not None]
    held_out_losses(ws, round_number, student, examples, (held.responses.key,))
    return responses
