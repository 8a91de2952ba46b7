"""Stages that make data: seeds, task types, teacher responses, expansions, plans and training mixes."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir_exp.config import SeedSource
from tapir_exp.config.lab_parts import LAB_STUDENT
from tapir_exp.core.console import print_warning
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Example, Label, Response, Subset, TrainingExample
from tapir_exp.core.store import Artifact
from tapir_exp.core.stored_rows import LazySequence, RowLog, StoredVector
from tapir_exp.core.task_types import TaskType
from tapir_exp.data.decontamination import benchmarks_recipe, load_benchmarks
from tapir_exp.data.novelty import Novelty
from tapir_exp.data.seeds import gather_seeds, seeds_recipe, source_digest
from tapir_exp.distillation import expansion, teacher
from tapir_exp.distillation.classifier.confidence import pool_confidence
from tapir_exp.distillation.classifier.llm import LLMClassifier
from tapir_exp.distillation.curriculum.filling import FilledPlan, replay_rows
from tapir_exp.distillation.curriculum.pool import Pool
from tapir_exp.distillation.curriculum.sampling import GenerationRequest, PlanSettings
from tapir_exp.distillation.judge.score import rate_complexity
from tapir_exp.distillation.prompts import load_prompt, refinement_style
from tapir_exp.pipeline.first_rows import check_labels, check_teacher, check_trained_labels, spread
from tapir_exp.pipeline.workspace import StageOutput, Workspace, role_recipe


def load_seeds(ws: Workspace) -> Artifact:
    """Return the seed instructions with the responses of their dataset. Rows: Example."""
    config = ws.config.seeds
    if not config.decontamination.benchmarks and config.source is not SeedSource.lab:
        print_warning("seeds.decontamination.benchmarks is empty: seeds and expansions are not checked for leaks.")
    if config.source is not SeedSource.lab and ws.config.student.model == LAB_STUDENT:
        print_warning(
            "The student is the lab's: a small model with random weights. Choose a real one, such as "
            "student=qwen1_5_0_5b or student.model=DIR_OR_HUB_ID."
        )

    def make(directory: Path) -> Mapping[str, Any]:
        return gather_seeds(config, load_benchmarks(config.decontamination), directory).figures

    recipe = {
        # The source's digest includes the world of the lab.
        "seeds": {name: value for name, value in seeds_recipe(config).items() if name != "world"},
        "source": source_digest(config),
        "decontamination": benchmarks_recipe(config.decontamination),
    }
    return ws.directory("seeds", None, recipe, make)


def add_missing_responses(ws: Workspace, seeds: Artifact) -> Artifact:
    """Return the seeds with a response of the teacher to each row that has none. Rows: Example.

    The completions serve `teacher_responses` as well, so nothing is paid twice.

    Args:
        ws: The workspace of the run.
        seeds: The seeds; returned as they are if every row has a response.
    """
    rows = seeds.stored_rows(Example)
    pending = [row for row in rows if not row.response]
    if not pending:
        return seeds

    def make() -> StageOutput:
        check = check_teacher(ws.config, len(pending))
        responses = teacher.respond(pending, ws.teacher, ws.config.teacher, "teacher: missing responses", check)
        texts = {response.id: response.text for response in responses}
        complete = [
            row if row.response else row.model_copy(update={"response": text})
            for row in rows
            if (text := row.response or texts[row.id])
        ]
        return StageOutput(complete, {"asked": len(pending), "failed": len(rows) - len(complete)})

    return ws.rows("seeds_with_responses", None, {"seeds": seeds.key, "teacher": _teacher_recipe(ws)}, make)


def classify_seeds(ws: Workspace, seeds: Artifact) -> Artifact:
    """Classify the task type of every seed, and warn if the classifier is out of its depth. Rows: Label."""
    examples, classifier, progress = seeds.stored_rows(Example), ws.classifier, "classifying seeds"
    recipe = {"seeds": seeds.key, **classifier.recipe()}
    if isinstance(classifier, LLMClassifier):

        def ask(spool: RowLog[Label]) -> StageOutput:
            return _label_output(ws, _ask_for_labels(ws, classifier, examples, progress, spool))

        labels = ws.logged_rows("task_labels", None, recipe, Label, ask, resumes=False)
    else:

        def compute(kept: RowLog[StoredVector]) -> StageOutput:
            rows = classifier.label(examples, progress, kept=kept)
            check_trained_labels(rows, ws.config)
            return _label_output(ws, rows)

        labels = ws.logged_rows("task_labels", None, recipe, StoredVector, compute)
    if warning := labels.figures.get("confidence", {}).get("warning"):
        print_warning(warning)
    return labels


def _label_output(ws: Workspace, rows: Sequence[Label]) -> StageOutput:
    figures: dict[str, Any] = {"unlabelled": sum(row.task is None for row in rows)}
    confidence = pool_confidence(rows)
    if confidence.rows:
        figures["mean_confidence"] = round(confidence.mean_confidence, 4)
        if warning := confidence.warning(ws.classifier.validation()):
            figures["confidence"] = {"warning": warning}  # for the report, and for runs that reuse the labels
    return StageOutput(rows, figures)


def _ask_for_labels(
    ws: Workspace, classifier: LLMClassifier, examples: Sequence[Example], progress: str, spool: RowLog[Label]
) -> Sequence[Label]:
    """Label the seeds by a chat model: a spread sample first, which is checked before the rest is paid for."""
    order = spread(len(examples))
    check = check_labels(ws.config, len(examples))
    labels = classifier.label(LazySequence(len(order), lambda n: examples[order[n]]), progress, check, spool)
    places = array("q", order)
    for place, index in enumerate(order):
        places[index] = place
    return LazySequence(len(order), lambda index: labels[places[index]])


def teacher_responses(ws: Workspace, seeds: Artifact) -> Artifact:
    """Ask the teacher to respond to every seed. Rows: Response."""

    def make(spool: RowLog[Response]) -> StageOutput:
        examples, label = seeds.stored_rows(Example), "teacher: responses to seeds"
        check = check_teacher(ws.config, len(examples))
        rows = teacher.respond(examples, ws.teacher, ws.config.teacher, label, check, spool)
        return StageOutput(rows, {"failed": sum(row.text is None for row in rows)})

    recipe = {"seeds": seeds.key, "teacher": _teacher_recipe(ws)}
    return ws.logged_rows("teacher_responses", None, recipe, Response, make, resumes=False)


@dataclass(frozen=True)
class ExpansionInputs:
    """What the new rows of a round follow from, besides the requests for them.

    Attributes:
        pool: The rows to draw examples from.
        settings: The settings that, with the pool, determine the plan of the round.
        held_out: Instructions that no expansion may repeat.
    """

    pool: Pool
    settings: PlanSettings
    held_out: frozenset[str]

    @property
    def round(self) -> int:
        """Number of the round, from 1."""
        return self.settings.round


@dataclass(frozen=True)
class ExpansionPass:
    """One of several passes over the requests of a round, between which the student is judged.

    Attributes:
        number: Number of the pass, from 0.
        seen: Instructions that the earlier passes proposed.
        keys: Keys of the artifacts that the remaining requests follow from, besides the plan.
    """

    number: int
    seen: frozenset[str]
    keys: tuple[str, ...]


def expand(
    ws: Workspace, inputs: ExpansionInputs, requests: Sequence[GenerationRequest], only: ExpansionPass | None = None
) -> Artifact:
    """Ask the teacher for the new rows of a plan; their responses are not refined yet. Rows: TrainingExample.

    Args:
        ws: The workspace of the run.
        inputs: The pool and the settings of the round.
        requests: The new rows that the plan requests.
        only: The pass to make; None makes all passes.
    """
    config = ws.config.teacher

    def make() -> StageOutput:
        seen = inputs.pool.seen | inputs.held_out | (only.seen if only else frozenset())
        filters = acceptance_filters(ws, seen)

        def expand(calls: Sequence[teacher.ExpansionRequest]) -> list[tuple[teacher.InstructionPair, ...]]:
            # While other calls are in flight, the instructions of each reply are compared with all earlier ones.
            return teacher.expand(calls, ws.teacher, config, "teacher: expansions", filters.novelty.look_ahead)

        passes = None if only is None else (only.number,)
        result = expansion.expand_until_filled(requests, filters, config, ws.config.seed, inputs.round, expand, passes)
        return StageOutput(result.rows, result.figures, result.dropped)

    stage = "expansions" if only is None else f"pass{only.number}_expansions"
    return ws.rows(stage, inputs.round, _expansions_recipe(ws, inputs, only), make)


def _expansions_recipe(ws: Workspace, inputs: ExpansionInputs, only: ExpansionPass | None) -> dict[str, Any]:
    recipe = {
        "pool": list(inputs.pool.keys),
        "plan": inputs.settings.recipe(),
        "teacher": _teacher_recipe(ws),
        "prompt": load_prompt("expand").text,
        "decontamination": benchmarks_recipe(ws.config.seeds.decontamination),
        **ws.classifier.recipe(),
    }
    if inputs.held_out:
        recipe |= {"held out": sorted(inputs.held_out)}
    if ws.config.teacher.max_complexity_gap is not None:
        judge_recipe = role_recipe(ws.judge, ws.config.judge)
        recipe |= {"judge": judge_recipe, "complexity prompt": load_prompt("judge/complexity").text}
    return recipe if only is None else {**recipe, "pass": only.number, "after": list(only.keys)}


def record_plan(ws: Workspace, round_number: int, filled: FilledPlan, inputs: Mapping[str, Any]) -> Artifact:
    """Record the plan of a round and how far it was filled. Rows: Quota.

    Args:
        ws: The workspace of the run.
        round_number: The round, from 1.
        filled: The plan with its rows.
        inputs: Recipe of what the plan was filled with.
    """

    def make() -> StageOutput:
        rows = filled.quotas
        unfilled = sum(row.ordered - row.filled for row in rows)
        missing = sum(max(0, row.wanted - row.drawn - row.filled) for row in rows)
        return StageOutput(rows, {"drawn": sum(row.drawn for row in rows), "unfilled": unfilled, "missing": missing})

    return ws.rows("plan", round_number, inputs, make)


def build_mix(ws: Workspace, round_number: int, filled: FilledPlan, inputs: Mapping[str, Any], pool: Pool) -> Artifact:
    """Build the training rows of a round, drawn and new, with responses refined by task type. Rows: TrainingExample.

    Args:
        ws: The workspace of the run.
        round_number: The round, from 1.
        filled: The plan with its rows.
        inputs: Recipe of what the plan was filled with.
        pool: The pool that the plan was drawn from.

    Raises:
        TapirError: If no row is left.
    """
    refine = ws.config.curriculum.refine

    def make() -> StageOutput:
        rows = filled.rows
        refined = _refine_responses(ws, rows) if refine else rows
        if not refined:
            requested, drawn = sum(quota.ordered for quota in filled.quotas), len(filled.drawn)
            raise TapirError(
                f"Round {round_number} has no training rows: {drawn} rows were drawn from the pool, "
                f"{len(rows) - drawn} of {requested} requested expansions were accepted, and all {len(rows)} were "
                "dropped during refinement (replies in spend.json). Increase curriculum.rows_per_round, "
                "teacher.max_expansion_passes or teacher.max_tokens, or use a stronger teacher."
            )
        hard = sum(row.subset is Subset.HARD for row in refined)
        figures = {"hard": hard, "failed": len(rows) - len(refined), "refinements": len(rows) if refine else 0}
        return StageOutput(refined, figures)

    recipe: dict[str, Any] = {**inputs, "pool": list(pool.keys), "refine": refine}
    if refine:
        styles = {task: refinement_style(task).text for task in TaskType}
        prompts = {"refine": load_prompt("refine").text, "styles": styles}
        recipe |= {"teacher": _teacher_recipe(ws), "prompts": prompts}
    return ws.rows("train_mix", round_number, recipe, make)


def add_replayed_rows(ws: Workspace, round_number: int, mix: Artifact, earlier: Sequence[Artifact]) -> Artifact:
    """Return the rows of a fit: the mix, and rows of earlier mixes if the run replays them. Rows: TrainingExample.

    Args:
        ws: The workspace of the run.
        round_number: The round, from 1.
        mix: The mix of the round; returned as it is if nothing is replayed.
        earlier: The mixes of earlier rounds, oldest first.
    """
    share, seed = ws.config.curriculum.replay, ws.config.seed
    if not share or not earlier:
        return mix

    def make() -> StageOutput:
        rows = mix.rows(TrainingExample)
        mixes = [artifact.rows(TrainingExample) for artifact in earlier]
        replayed = replay_rows(rows, mixes, share, f"seed {seed} round {round_number}")
        return StageOutput([*rows, *replayed], {"replayed": len(replayed)})

    recipe = {"mix": mix.key, "earlier": [artifact.key for artifact in earlier], "replay": share, "seed": seed}
    return ws.rows("replayed_mix", round_number, recipe, make)


def acceptance_filters(ws: Workspace, seen: frozenset[str]) -> expansion.AcceptanceFilters:
    """Return the filters that a proposed pair must pass; `seen` are the instructions that it may not repeat."""
    return expansion.AcceptanceFilters(
        Novelty(ws.config.teacher.max_rouge_l, sorted(seen)),
        load_benchmarks(ws.config.seeds.decontamination),
        lambda examples: ws.classifier.label(examples, "classifying expansions"),
        lambda examples: _rate_complexity(ws, examples),
        ws.config.teacher.max_complexity_gap,
    )


def _rate_complexity(ws: Workspace, examples: Sequence[Example]) -> list[float | None]:
    """Return the judge's rating of each instruction's complexity, 1 to 10; None if it gave no rating."""
    instructions = [(example.id, example.instruction) for example in examples]
    ratings = rate_complexity(instructions, ws.judge, ws.config.judge, "judge: complexity of expansions")
    return [rating.complexity for rating in ratings]


def _refine_responses(ws: Workspace, rows: Sequence[TrainingExample]) -> list[TrainingExample]:
    """Return the rows with refined responses; rows without a task type or a refinement are dropped."""
    requests = [
        teacher.RefinementRequest(row.id, row.task, row.instruction, row.response)
        for row in rows
        if row.task is not None
    ]
    responses = teacher.refine(requests, ws.teacher, ws.config.teacher, "teacher: refinements")
    texts = {response.id: response.text for response in responses if response.text is not None}
    return [row.model_copy(update={"response": texts[row.id]}) for row in rows if row.id in texts]


def _teacher_recipe(ws: Workspace) -> dict[str, Any]:
    return role_recipe(ws.teacher, ws.config.teacher)
