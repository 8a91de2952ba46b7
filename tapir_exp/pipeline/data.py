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


def load_seeds(bench: Workspace) -> Artifact:
    """D: the seed instructions with the responses that their dataset has. Rows: Example."""
    config = bench.config.seeds
    if not config.decontamination.benchmarks and config.source is not SeedSource.lab:
        print_warning("Neither seeds nor expansions are checked for leaks: seeds.decontamination.benchmarks is empty.")

    def make(directory: Path) -> Mapping[str, Any]:
        return gather_seeds(config, load_benchmarks(config.decontamination), directory).figures

    recipe = {
        "seeds": asdict(config),
        "source": source_digest(config),
        "decontamination": benchmarks_recipe(config.decontamination),
    }
    return bench.directory("seeds", None, recipe, make)


def classify_seeds(bench: Workspace, seeds: Artifact) -> Artifact:
    """The task type of every seed. Rows: Label."""

    def make() -> StageOutput:
        rows = bench.labeller.label(seeds.rows(Example), "typing the seeds")
        return StageOutput(rows, {"unlabelled": sum(row.task is None for row in rows)})

    return bench.rows("labels", None, {"seeds": seeds.key, **bench.labeller.recipe()}, make)


def teacher_responses(bench: Workspace, seeds: Artifact) -> Artifact:
    """The teacher's own response to every seed. Rows: Answer."""

    def make() -> StageOutput:
        rows = teacher.respond(
            seeds.rows(Example), bench.teacher, bench.config.teacher, "the teacher answers the seeds"
        )
        return StageOutput(rows, {"failed": sum(row.text is None for row in rows)})

    return bench.rows("responses", None, {"seeds": seeds.key, "teacher": _teacher_recipe(bench)}, make)


def expand(bench: Workspace, round_number: int, pool: Pool, plan: RoundPlan, choice: Mapping[str, Any]) -> Artifact:
    """What the teacher wrote for the orders of a plan; responses unrefined. Rows: TrainingExample.

    choice: the settings that, with the pool, determine the plan.
    """
    config = bench.config.teacher

    def make() -> StageOutput:
        growth = expansion.expand_until_filled(
            plan.orders,
            _gate(bench, pool),
            config,
            bench.config.seed,
            round_number,
            lambda asked: teacher.expand(asked, bench.teacher, config, "the teacher expands"),
        )
        return StageOutput(growth.rows, growth.figures, growth.left_out)

    recipe = {
        "pool": list(pool.keys),
        "plan": choice,
        "teacher": _teacher_recipe(bench),
        "prompt": load_prompt("expand").text,
        "decontamination": benchmarks_recipe(bench.config.seeds.decontamination),
        **bench.labeller.recipe(),
    }
    if bench.kept_out:
        recipe |= {"kept out": sorted(bench.kept_out)}
    if config.similar_within is not None:
        judge_recipe = role_recipe(bench.judge, bench.config.judge)
        recipe |= {"judge": judge_recipe, "complexity prompt": load_prompt("judge/complexity").text}
    return bench.rows("expansions", round_number, recipe, make)


def record_plan(bench: Workspace, round_number: int, planned: RoundPlan, expansions: Artifact) -> Artifact:
    """The plan of a round beside what became of it. Rows: Quota."""

    def make() -> StageOutput:
        filled = Counter((row.task, row.part) for row in expansions.rows(TrainingExample))
        rows = [quota.model_copy(update={"filled": filled[quota.task, quota.part]}) for quota in planned.quotas]
        unfilled = sum(row.ordered - row.filled for row in rows)
        return StageOutput(rows, {"drawn": sum(row.drawn for row in rows), "unfilled": unfilled})

    return bench.rows("plan", round_number, {"expansions": expansions.key}, make)


def build_mix(bench: Workspace, round_number: int, planned: RoundPlan, expansions: Artifact, pool: Pool) -> Artifact:
    """The round's training rows, drawn and new, refined for their task types. Rows: TrainingExample.

    Raises TapirError where none is left.
    """
    refining = bench.config.curriculum.refine

    def make() -> StageOutput:
        rows = [_drawn_row(candidate) for candidate in planned.drawn] + expansions.rows(TrainingExample)
        refined = _refined(bench, rows) if refining else rows
        if not refined:
            ordered, drawn = sum(order.count for order in planned.orders), len(planned.drawn)
            raise TapirError(
                f"Round {round_number} has nothing to train on: {drawn} rows were drawn, {len(rows) - drawn} of "
                f"{ordered} ordered ones written, and {len(rows)} lost in refinement; spend.json holds the teacher's "
                "words. Raise curriculum.rows, teacher.waves or teacher.max_tokens, or take another teacher."
            )
        hard = sum(row.part is Subset.HARD for row in refined)
        return StageOutput(refined, {"hard": hard, "failed": len(rows) - len(refined)})

    recipe: dict[str, Any] = {"expansions": expansions.key, "pool": list(pool.keys), "refine": refining}
    if refining:
        styles = {task: refinement_style(task).text for task in TaskType}
        prompts = {"refine": load_prompt("refine").text, "styles": styles}
        recipe |= {"teacher": _teacher_recipe(bench), "prompts": prompts}
        if bench.config.teacher.bare_refinements:
            recipe |= {"read": "bare"}
    return bench.rows("mix", round_number, recipe, make)


def _gate(bench: Workspace, pool: Pool) -> expansion.AcceptanceFilters:
    """What a new pair must pass before it becomes a row."""
    return expansion.AcceptanceFilters(
        Novelty(bench.config.teacher.novelty, sorted(pool.seen | bench.kept_out)),
        load_benchmarks(bench.config.seeds.decontamination),
        lambda fresh: bench.labeller.label(fresh, "typing what is new"),
        lambda fresh: _rated(bench, fresh),
    )


def _rated(bench: Workspace, examples: Sequence[Example]) -> list[float | None]:
    """How complex the judge calls each instruction, from 1 to 10; None where it gave no rating."""
    asked = [(example.id, example.instruction) for example in examples]
    ratings = rate_complexity(asked, bench.judge, bench.config.judge, "rating what is new")
    return [rating.complexity for rating in ratings]


def _refined(bench: Workspace, rows: Sequence[TrainingExample]) -> list[TrainingExample]:
    """The rows with refined responses; a row whose refinement failed is left out."""
    drafts = [
        teacher.RefinementRequest(row.id, row.task, row.instruction, row.response)
        for row in rows
        if row.task is not None
    ]
    written = teacher.refine(drafts, bench.teacher, bench.config.teacher, "the teacher refines")
    texts = {answer.id: answer.text for answer in written if answer.text is not None}
    return [row.model_copy(update={"response": texts[row.id]}) for row in rows if row.id in texts]


def _drawn_row(candidate: Candidate) -> TrainingExample:
    example = candidate.example
    return TrainingExample(
        id=example.id,
        instruction=example.instruction,
        response=example.response,
        task=candidate.task,
        part=candidate.part,
        origin=example.origin,
        parents=example.parents,
        born=example.round,
        gap=candidate.difficulty,
    )


def _teacher_recipe(bench: Workspace) -> dict[str, Any]:
    return role_recipe(bench.teacher, bench.config.teacher)
