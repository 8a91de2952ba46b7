"""Every stage as an artifact: what it is made from, which is its key, and how it is made."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tapir_exp.config import SeedSource
from tapir_exp.core.console import print_warning
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Example, Subset, TrainingExample
from tapir_exp.core.store import Artifact
from tapir_exp.core.task_types import TaskType
from tapir_exp.data.decontamination import benchmarks_recipe, load_benchmarks
from tapir_exp.data.novelty import Novelty
from tapir_exp.data.seeds import gather_seeds, source_digest
from tapir_exp.distillation import expansion, teacher
from tapir_exp.distillation.curriculum.pool import Pool
from tapir_exp.distillation.curriculum.sampling import Candidate, RoundPlan
from tapir_exp.distillation.judge.score import rate_complexity
from tapir_exp.distillation.prompts import load_prompt, refinement_style
from tapir_exp.pipeline.workspace import StageOutput, Workspace, role_recipe


def load_seeds(ws: Workspace) -> Artifact:
    """D: the seed instructions with the responses that their dataset has. Rows: Example."""
    config = ws.config.seeds
    if not config.decontamination.benchmarks and config.source is not SeedSource.lab:
        print_warning("Neither seeds nor expansions are checked for leaks: seeds.decontamination.benchmarks is empty.")

    def make(directory: Path) -> Mapping[str, Any]:
        return gather_seeds(config, load_benchmarks(config.decontamination), directory).figures

    recipe = {
        "seeds": asdict(config),
        "source": source_digest(config),
        "decontamination": benchmarks_recipe(config.decontamination),
    }
    return ws.directory("seeds", None, recipe, make)


def classify_seeds(ws: Workspace, seeds: Artifact) -> Artifact:
    """The task type of every seed. Rows: Label."""

    def make() -> StageOutput:
        rows = ws.classifier.label(seeds.rows(Example), "typing the seeds")
        return StageOutput(rows, {"unlabelled": sum(row.task is None for row in rows)})

    return ws.rows("task_labels", None, {"seeds": seeds.key, **ws.classifier.recipe()}, make)


def teacher_responses(ws: Workspace, seeds: Artifact) -> Artifact:
    """The teacher's own response to every seed. Rows: Answer."""

    def make() -> StageOutput:
        rows = teacher.respond(seeds.rows(Example), ws.teacher, ws.config.teacher, "the teacher answers the seeds")
        return StageOutput(rows, {"failed": sum(row.text is None for row in rows)})

    return ws.rows("teacher_responses", None, {"seeds": seeds.key, "teacher": _teacher_recipe(ws)}, make)


def expand(ws: Workspace, round_number: int, pool: Pool, plan: RoundPlan, choice: Mapping[str, Any]) -> Artifact:
    """What the teacher wrote for the orders of a plan; responses unrefined. Rows: TrainingExample.

    choice: the settings that, with the pool, determine the plan.
    """
    config = ws.config.teacher

    def make() -> StageOutput:
        growth = expansion.expand_until_filled(
            plan.orders,
            _gate(ws, pool),
            config,
            ws.config.seed,
            round_number,
            lambda asked: teacher.expand(asked, ws.teacher, config, "the teacher expands"),
        )
        return StageOutput(growth.rows, growth.figures, growth.dropped)

    recipe = {
        "pool": list(pool.keys),
        "plan": choice,
        "teacher": _teacher_recipe(ws),
        "prompt": load_prompt("expand").text,
        "decontamination": benchmarks_recipe(ws.config.seeds.decontamination),
        **ws.classifier.recipe(),
    }
    if ws.held_out_instructions:
        recipe |= {"kept out": sorted(ws.held_out_instructions)}
    if config.max_complexity_gap is not None:
        judge_recipe = role_recipe(ws.judge, ws.config.judge)
        recipe |= {"judge": judge_recipe, "complexity prompt": load_prompt("judge/complexity").text}
    return ws.rows("expansions", round_number, recipe, make)


def record_plan(ws: Workspace, round_number: int, planned: RoundPlan, expansions: Artifact) -> Artifact:
    """The plan of a round beside what became of it. Rows: Quota."""

    def make() -> StageOutput:
        filled = Counter((row.task, row.subset) for row in expansions.rows(TrainingExample))
        rows = [quota.model_copy(update={"filled": filled[quota.task, quota.subset]}) for quota in planned.quotas]
        unfilled = sum(row.ordered - row.filled for row in rows)
        return StageOutput(rows, {"drawn": sum(row.drawn for row in rows), "unfilled": unfilled})

    return ws.rows("plan", round_number, {"expansions": expansions.key}, make)


def build_mix(ws: Workspace, round_number: int, planned: RoundPlan, expansions: Artifact, pool: Pool) -> Artifact:
    """The round's training rows, drawn and new, refined for their task types. Rows: TrainingExample.

    Raises TapirError where none is left.
    """
    refining = ws.config.curriculum.refine

    def make() -> StageOutput:
        rows = [_drawn_row(candidate) for candidate in planned.drawn] + expansions.rows(TrainingExample)
        refined = _refined(ws, rows) if refining else rows
        if not refined:
            ordered, drawn = sum(order.count for order in planned.orders), len(planned.drawn)
            raise TapirError(
                f"Round {round_number} has nothing to train on: {drawn} rows were drawn, {len(rows) - drawn} of "
                f"{ordered} ordered ones written, and {len(rows)} lost in refinement; spend.json holds the teacher's "
                "words. Raise curriculum.rows_per_round, teacher.max_expansion_passes or teacher.max_tokens, or take another teacher."
            )
        hard = sum(row.subset is Subset.HARD for row in refined)
        return StageOutput(refined, {"hard": hard, "failed": len(rows) - len(refined)})

    recipe: dict[str, Any] = {"expansions": expansions.key, "pool": list(pool.keys), "refine": refining}
    if refining:
        styles = {task: refinement_style(task).text for task in TaskType}
        prompts = {"refine": load_prompt("refine").text, "styles": styles}
        recipe |= {"teacher": _teacher_recipe(ws), "prompts": prompts}
        if ws.config.teacher.allow_untagged_refinements:
            recipe |= {"read": "bare"}
    return ws.rows("train_mix", round_number, recipe, make)


def _gate(ws: Workspace, pool: Pool) -> expansion.AcceptanceFilters:
    """What a new pair must pass before it becomes a row."""
    return expansion.AcceptanceFilters(
        Novelty(ws.config.teacher.max_rouge_l, sorted(pool.seen | ws.held_out_instructions)),
        load_benchmarks(ws.config.seeds.decontamination),
        lambda fresh: ws.classifier.label(fresh, "typing what is new"),
        lambda fresh: _rated(ws, fresh),
    )


def _rated(ws: Workspace, examples: Sequence[Example]) -> list[float | None]:
    """How complex the judge calls each instruction, from 1 to 10; None where it gave no rating."""
    asked = [(example.id, example.instruction) for example in examples]
    ratings = rate_complexity(asked, ws.judge, ws.config.judge, "rating what is new")
    return [rating.complexity for rating in ratings]


def _refined(ws: Workspace, rows: Sequence[TrainingExample]) -> list[TrainingExample]:
    """The rows with refined responses; a row whose refinement failed is left out."""
    drafts = [
        teacher.RefinementRequest(row.id, row.task, row.instruction, row.response)
        for row in rows
        if row.task is not None
    ]
    written = teacher.refine(drafts, ws.teacher, ws.config.teacher, "the teacher refines")
    texts = {answer.id: answer.text for answer in written if answer.text is not None}
    return [row.model_copy(update={"response": texts[row.id]}) for row in rows if row.id in texts]


def _drawn_row(candidate: Candidate) -> TrainingExample:
    example = candidate.example
    return TrainingExample(
        id=example.id,
        instruction=example.instruction,
        response=example.response,
        task=candidate.task,
        subset=candidate.subset,
        origin=example.origin,
        parents=example.parents,
        created_in_round=example.round,
        difficulty=candidate.difficulty,
    )


def _teacher_recipe(ws: Workspace) -> dict[str, Any]:
    return role_recipe(ws.teacher, ws.config.teacher)
