"""Stages that measure a student on given responses: verdicts of the judge, losses, rollouts and ratings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tapir_exp.core.records import Example, Response, Verdict, row_id_of_rollout
from tapir_exp.core.store import Artifact
from tapir_exp.core.stored_rows import MeasuredLoss, RowLog
from tapir_exp.distillation.judge.parse import PARSER_VERSION
from tapir_exp.distillation.judge.requests import ResponsePair, judge_prompts
from tapir_exp.distillation.judge.score import rate_complexity, score_pairs
from tapir_exp.distillation.prompts import load_prompt
from tapir_exp.pipeline.first_rows import check_judge, judge_requests
from tapir_exp.pipeline.generation import response_figures
from tapir_exp.pipeline.verdict_output import verdict_output
from tapir_exp.pipeline.workspace import (
    StageOutput,
    Workspace,
    generation_recipe,
    role_recipe,
    template_recipe,
)


@dataclass(frozen=True)
class ScoringInputs:
    """Responses on which a student is scored.

    Attributes:
        round: The round of the stage: the student's, or with the prefix `FRESH` the one after it.
        student: The student.
        pairs: The teacher's responses as `response_a`, the student's as `response_b`.
        inputs: Keys of the artifacts that the pairs come from.
        prefix: Start of the names of the stages, which distinguishes scores of one round.
    """

    round: int
    student: Artifact
    pairs: Sequence[ResponsePair]
    inputs: tuple[str, ...]
    prefix: str = ""


def verdicts(ws: Workspace, scored: ScoringInputs) -> Artifact:
    """Judge the student against the teacher. Rows: Verdict."""
    label = judge_label(scored.round, scored.prefix)
    return _judge_pairs(ws, f"{scored.prefix}verdicts", scored, scored.pairs, scored.inputs, label)


def held_out_verdicts(ws: Workspace, scored: ScoringInputs) -> Artifact:
    """Judge the student against its predecessor, which is scored as the teacher. Rows: Verdict."""
    label = f"judge: S_{scored.round} vs. its predecessor"
    return _judge_pairs(ws, "held_out_verdicts", scored, scored.pairs, scored.inputs, label)


def losses(ws: Workspace, scored: ScoringInputs) -> Artifact:
    """Measure the student's loss on the teacher's responses, with and without the instruction. Rows: ResponseLoss."""
    examples = [Example(id=pair.id, instruction=pair.instruction, response=pair.response_a) for pair in scored.pairs]
    return _measure_losses(ws, f"{scored.prefix}losses", scored.round, scored.student, examples, scored.inputs)


def held_out_losses(
    ws: Workspace, round_number: int, student: Artifact, examples: Sequence[Example], inputs: tuple[str, ...]
) -> Artifact:
    """Measure the student's loss on held-out instructions with the teacher's responses. Rows: ResponseLoss."""
    return _measure_losses(ws, "held_out_losses", round_number, student, examples, inputs)


def rollouts(ws: Workspace, scored: ScoringInputs) -> Artifact:
    """Sample several responses of the student to every instruction. Rows: Response, with ids of `rollout_id`."""
    config = ws.config
    plan = config.curriculum.rollouts

    def make(kept: RowLog[Response]) -> StageOutput:
        # Imported here, since it loads torch.
        from tapir_exp.student.rollouts import sample_rollouts

        prompts = [(pair.id, pair.instruction) for pair in scored.pairs]
        label = f"S_{scored.round}: sampling rollouts"
        rows = sample_rollouts(scored.student.path, prompts, config.student, plan, config.seed, label, kept)
        return StageOutput(rows, response_figures(rows))

    # Without beta: another temperature of the spread uses the same rollouts.
    recipe = {
        "student": scored.student.key,
        "inputs": scored.inputs,
        "num_samples": plan.num_samples,
        "temperature": plan.temperature,
        "seed": config.seed,
        "generation": generation_recipe(config.student),
    }
    return ws.logged_rows(f"{scored.prefix}rollouts", scored.round, recipe, Response, make)


def rollout_verdicts(ws: Workspace, scored: ScoringInputs, rollouts: Artifact) -> Artifact:
    """Judge every rollout against the teacher. Rows: Verdict, with the ids of the rollouts."""
    by_id = {pair.id: pair for pair in scored.pairs}
    pairs = [
        replace(by_id[row_id_of_rollout(rollout.id)], id=rollout.id, response_b=rollout.text or "")
        for rollout in rollouts.rows(Response)
    ]
    label = f"judge: rollouts of S_{scored.round}"
    return _judge_pairs(ws, f"{scored.prefix}rollout_verdicts", scored, pairs, (rollouts.key, *scored.inputs), label)


def ratings(ws: Workspace, scored: ScoringInputs) -> Artifact:
    """Ask the judge for the complexity of every instruction. Rows: Rating."""

    def make() -> StageOutput:
        instructions = [(pair.id, pair.instruction) for pair in scored.pairs]
        rows = rate_complexity(instructions, ws.judge, ws.config.judge, "judge: complexity of instructions")
        return StageOutput(rows, {"unrated": sum(row.complexity is None for row in rows)})

    recipe = {
        "inputs": scored.inputs,
        "judge": role_recipe(ws.judge, ws.config.judge),
        "prompt": load_prompt("judge/complexity").text,
        "reader": PARSER_VERSION,
    }
    return ws.rows(f"{scored.prefix}ratings", scored.round, recipe, make)


def _judge_pairs(
    ws: Workspace,
    stage: str,
    scored: ScoringInputs,
    pairs: Sequence[ResponsePair],
    inputs: Sequence[str],
    label: str,
) -> Artifact:
    def make(spool: RowLog[Verdict]) -> StageOutput:
        check = check_judge(ws.config, len(pairs), judge_requests(ws.config, pairs))
        return verdict_output(
            score_pairs(pairs, ws.judge, ws.config.judge, label, check, spool), pairs, ws.config.judge
        )

    return ws.logged_rows(stage, scored.round, verdicts_recipe(ws, inputs), Verdict, make, resumes=False)


def judge_label(round_number: int, prefix: str) -> str:
    """Return the label of the judge's calls in progress bars."""
    return f"judge: S_{round_number} vs. teacher" if not prefix else f"judge: S_{round_number - 1} on new rows"


def verdicts_recipe(ws: Workspace, inputs: Sequence[str]) -> dict[str, Any]:
    """Return everything that determines the verdicts on the artifacts with these keys."""
    config = ws.config.judge
    return {
        "inputs": list(inputs),
        "judge": role_recipe(ws.judge, config),
        "prompts": judge_prompts(config),
        "reader": PARSER_VERSION,
    }


def _measure_losses(
    ws: Workspace,
    stage: str,
    round_number: int,
    student: Artifact,
    examples: Sequence[Example],
    inputs: tuple[str, ...],
) -> Artifact:
    config = ws.config.student

    def make(kept: RowLog[MeasuredLoss]) -> StageOutput:
        # Imported here, since it loads torch.
        from tapir_exp.student.response_loss import LossRow, response_losses

        rows = [LossRow(example.id, example.instruction, example.response) for example in examples]
        measured = response_losses(student.path, rows, config, f"S_{round_number}: losses", kept)
        return StageOutput(measured, {"failed": sum(row.failure is not None for row in measured)})

    # Without generation settings: a loss depends on the template and the length limit only.
    recipe = {
        "student": student.key,
        "inputs": inputs,
        "template": [*template_recipe(config), config.max_length],
        "precision": config.precision,
    }
    return ws.logged_rows(stage, round_number, recipe, MeasuredLoss, make)
