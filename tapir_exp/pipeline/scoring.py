"""Stages that score rows for a student: the judge's verdicts, and what other difficulty scores need."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

from tapir_exp.config import Difficulty, SelectBy
from tapir_exp.core.records import (
    Example,
    Rating,
    Response,
    ResponseLoss,
    TrainingExample,
    Verdict,
    row_id_of_rollout,
)
from tapir_exp.core.store import Artifact
from tapir_exp.distillation.curriculum.difficulty import (
    instruction_following_difficulty,
    rated_complexity,
    response_length,
    rollout_spread,
    scored_gaps,
)
from tapir_exp.distillation.judge.noise import shrunk_gaps
from tapir_exp.distillation.judge.parse import PARSER_VERSION
from tapir_exp.distillation.judge.requests import PendingPair, ResponsePair, judge_prompts
from tapir_exp.distillation.judge.score import rate_complexity, score_pairs
from tapir_exp.distillation.judge.streaming import StreamingJudge
from tapir_exp.distillation.prompts import load_prompt
from tapir_exp.pipeline import generation
from tapir_exp.pipeline.generation import response_figures
from tapir_exp.pipeline.response_gate import ResponseGate, check_responses
from tapir_exp.pipeline.verdict_output import verdict_output
from tapir_exp.pipeline.workspace import (
    StageOutput,
    Workspace,
    generation_recipe,
    role_recipe,
    stage_name,
    template_recipe,
)

FRESH = "fresh_"
"""Prefix of the stages that score a student on rows that it has not been trained on."""


@dataclass(frozen=True)
class ScoringInputs:
    """Responses on which a student is scored.

    Attributes:
        round: The round of the stage: the student's, or with the prefix `FRESH` the one after it.
        student: The student.
        pairs: The teacher's responses as `response_a`, the student's as `response_b`.
        inputs: Keys of the artifacts that the pairs come from.
        prefix: Start of the names of the stages, which tells scores of one round apart.
    """

    round: int
    student: Artifact
    pairs: Sequence[ResponsePair]
    inputs: tuple[str, ...]
    prefix: str = ""


@dataclass(frozen=True)
class DifficultyScores:
    """Difficulty by row id, by the configured score, and the keys of the artifacts that it was computed from."""

    by_row: Mapping[str, float]
    keys: tuple[str, ...]


def score_on_seeds(ws: Workspace, student: Artifact, seeds: Artifact, teacher_responses: Artifact) -> DifficultyScores:
    """Score S_0 on the seeds; a seed without a response of the teacher gets no score."""
    texts = {response.id: response.text for response in teacher_responses.rows(Response)}
    pairs = [
        PendingPair(seed.id, seed.instruction, text, seed.response)
        for seed in seeds.rows(Example)
        if (text := texts[seed.id]) is not None
    ]
    return _score_student(ws, 0, student, seeds, Example, pairs, teacher_responses.key)


def score_on_mix(
    ws: Workspace, round_number: int, student: Artifact, mix: Artifact, references: Mapping[str, str]
) -> DifficultyScores:
    """Score the student of a round on the rows of its mix.

    Args:
        ws: The workspace of the run.
        round_number: The round.
        student: The student that was trained on the mix.
        mix: The mix, which holds the teacher's responses.
        references: Responses that a judge with `judge.reference` sees, by row id.
    """
    pairs = [
        PendingPair(row.id, row.instruction, row.response, references.get(row.id)) for row in mix.rows(TrainingExample)
    ]
    return _score_student(ws, round_number, student, mix, TrainingExample, pairs, mix.key)


def score_before_fit(
    ws: Workspace, round_number: int, student: Artifact, expansions: Artifact, prefix: str = FRESH
) -> DifficultyScores:
    """Score the student of the round before on the new rows of a round, ahead of its fit.

    The rows are new to the pool, so no fit of this run has seen them.

    Args:
        ws: The workspace of the run.
        round_number: The round that the rows were written for.
        student: The student of the round before.
        expansions: The new rows.
        prefix: Start of the names of the stages.
    """
    rows = expansions.rows(TrainingExample)
    if not rows:
        return DifficultyScores({}, ())
    pairs = [PendingPair(row.id, row.instruction, row.response) for row in rows]
    return _score_student(ws, round_number, student, expansions, TrainingExample, pairs, expansions.key, prefix)


def score(ws: Workspace, scored: ScoringInputs) -> DifficultyScores:
    """Judge the student against the teacher, and score every row by the configured difficulty.

    The judge is called for every difficulty, since reports show the gaps of every student.
    """
    return SCORES[ws.config.curriculum.difficulty](ws, scored, verdicts(ws, scored))


def verdicts(ws: Workspace, scored: ScoringInputs) -> Artifact:
    """Judge the student against the teacher. Rows: Verdict."""
    label = _judge_label(scored.round, scored.prefix)
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

    def make() -> StageOutput:
        # Imported here, since it loads torch.
        from tapir_exp.student.rollouts import sample_rollouts

        prompts = [(pair.id, pair.instruction) for pair in scored.pairs]
        label = f"S_{scored.round}: sampling rollouts"
        rows = sample_rollouts(scored.student.path, prompts, config.student, plan, config.seed, label)
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
    return ws.rows(f"{scored.prefix}rollouts", scored.round, recipe, make)


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


def _score_student(
    ws: Workspace,
    round_number: int,
    student: Artifact,
    instructions: Artifact,
    row_type: type[Example] | type[TrainingExample],
    pairs: Sequence[PendingPair],
    teacher_key: str,
    prefix: str = "",
) -> DifficultyScores:
    """Let the student respond, judge it against the teacher, and score every row.

    The judge works while the student generates, unless it is called in batches or
    `judge.stream_while_generating` is off. The artifacts are the same.

    Args:
        ws: The workspace of the run.
        round_number: The round that the student comes from.
        student: The student.
        instructions: The rows that the student responds to.
        row_type: Type of those rows.
        pairs: The teacher's responses.
        teacher_key: Key of the artifact that holds the teacher's responses.
        prefix: Start of the names of the stages.
    """
    # The key of the responses is known before they exist, so a run can look for verdicts on them first.
    inputs = (generation.student_responses_key(ws, student, instructions, prefix), teacher_key)
    with ExitStack() as stack:
        judge = None
        if _can_stream(ws, f"{prefix}verdicts", inputs):
            stage, label = stage_name(f"{prefix}verdicts", round_number), _judge_label(round_number, prefix)
            judge = stack.enter_context(StreamingJudge(pairs, ws.judge, ws.config.judge, stage=stage, label=label))
        label = f"S_{round_number - 1 if prefix else round_number}"
        gate = None if judge is None else ResponseGate(ws.config, label, len(pairs), judge.submit)
        on_response = None if gate is None else gate.add
        responses = generation.student_responses(ws, round_number, student, instructions, row_type, on_response, prefix)
        by_id = {response.id: response for response in responses.rows(Response)}
        if not (gate and gate.passed) and ws.store.find(f"{prefix}verdicts", _verdicts_recipe(ws, inputs)) is None:
            check_responses([by_id[pair.id] for pair in pairs], ws.config, label)
        complete_pairs = [pair.with_response(by_id[pair.id]) for pair in pairs]
        scored = ScoringInputs(round_number, student, complete_pairs, inputs, prefix)
        judged = verdicts(ws, scored) if judge is None else _finish_verdicts(ws, scored, judge, list(by_id.values()))
    return SCORES[ws.config.curriculum.difficulty](ws, scored, judged)


def _can_stream(ws: Workspace, stage: str, inputs: Sequence[str]) -> bool:
    """Return whether the judge may work while the student generates, and still has anything to do."""
    config = ws.config.judge
    # A batch is sent as a whole, so it needs all responses.
    if not config.stream_while_generating or config.llm.batch:
        return False
    # With verdicts in the store, only the responses are missing, and the judge need not be called for them.
    return ws.store.find(stage, _verdicts_recipe(ws, inputs)) is None


def _finish_verdicts(
    ws: Workspace, scored: ScoringInputs, judge: StreamingJudge, responses: Sequence[Response]
) -> Artifact:
    """Make the artifact of the verdicts of a judge that has worked while the student generated. Rows: Verdict."""

    def make() -> StageOutput:
        rows = judge.finish(responses)
        return replace(verdict_output(rows, scored.pairs, ws.config.judge), spend=judge.spend)

    # The ledger in the judge's thread has recorded the spend, under the name of this stage.
    return ws.rows(
        f"{scored.prefix}verdicts", scored.round, _verdicts_recipe(ws, scored.inputs), make, record_spend=False
    )


def _judge_pairs(
    ws: Workspace,
    stage: str,
    scored: ScoringInputs,
    pairs: Sequence[ResponsePair],
    inputs: Sequence[str],
    label: str,
) -> Artifact:
    def make() -> StageOutput:
        return verdict_output(score_pairs(pairs, ws.judge, ws.config.judge, label), pairs, ws.config.judge)

    return ws.rows(stage, scored.round, _verdicts_recipe(ws, inputs), make)


def _judge_label(round_number: int, prefix: str) -> str:
    return f"judge: S_{round_number} vs. teacher" if not prefix else f"judge: S_{round_number - 1} on new rows"


def _verdicts_recipe(ws: Workspace, inputs: Sequence[str]) -> dict[str, Any]:
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

    def make() -> StageOutput:
        # Imported here, since it loads torch.
        from tapir_exp.student.response_loss import LossRow, response_losses

        rows = [LossRow(example.id, example.instruction, example.response) for example in examples]
        measured = response_losses(student.path, rows, config, f"S_{round_number}: losses")
        return StageOutput(measured, {"failed": sum(row.failure is not None for row in measured)})

    # Without generation settings: a loss depends on the template and the length limit only.
    recipe = {
        "student": student.key,
        "inputs": inputs,
        "template": [*template_recipe(config), config.max_length],
        "precision": config.precision,
    }
    return ws.rows(stage, round_number, recipe, make)


def _by_gap(ws: Workspace, scored: ScoringInputs, judged: Artifact) -> DifficultyScores:
    plan, verdicts = ws.config.curriculum, judged.rows(Verdict)
    if plan.select_by is SelectBy.gap:
        return DifficultyScores(scored_gaps(verdicts), (judged.key,))
    bounds = shrunk_gaps(
        verdicts, NormalDist().inv_cdf(plan.select_confidence), shrink=plan.select_by is SelectBy.posterior
    )
    # What the scores are computed by is part of the keys of everything that follows from them.
    return DifficultyScores(bounds, (judged.key, f"{plan.select_by.value} {plan.select_confidence}"))


def _by_losses(ws: Workspace, scored: ScoringInputs, judged: Artifact) -> DifficultyScores:
    measured = losses(ws, scored)
    scores = {
        row.id: instruction_following_difficulty(row.instructed, row.alone)
        for row in measured.rows(ResponseLoss)
        if row.instructed is not None and row.alone is not None
    }
    return DifficultyScores(scores, (judged.key, measured.key))


def _by_rollouts(ws: Workspace, scored: ScoringInputs, judged: Artifact) -> DifficultyScores:
    sampled = rollouts(ws, scored)
    sampled_verdicts = rollout_verdicts(ws, scored, sampled)
    rewards: defaultdict[str, list[float]] = defaultdict(list)
    for verdict in sampled_verdicts.rows(Verdict):
        if verdict.student is not None:
            rewards[row_id_of_rollout(verdict.id)].append(verdict.student)
    plan = ws.config.curriculum.rollouts
    # A row with an unscored rollout gets no score: without its worst or best response the spread would differ.
    scores = {
        row_id: rollout_spread(of_row, plan.beta)
        for row_id, of_row in rewards.items()
        if len(of_row) == plan.num_samples
    }
    return DifficultyScores(scores, (judged.key, sampled.key, sampled_verdicts.key))


def _by_rating(ws: Workspace, scored: ScoringInputs, judged: Artifact) -> DifficultyScores:
    rated = ratings(ws, scored)
    scores = {row.id: rated_complexity(row.complexity) for row in rated.rows(Rating) if row.complexity is not None}
    return DifficultyScores(scores, (judged.key, rated.key))


def _by_length(ws: Workspace, scored: ScoringInputs, judged: Artifact) -> DifficultyScores:
    return DifficultyScores({pair.id: response_length(pair.response_a) for pair in scored.pairs}, (judged.key,))


SCORES: Mapping[Difficulty, Callable[[Workspace, ScoringInputs, Artifact], DifficultyScores]] = {
    Difficulty.mfd: _by_gap,
    Difficulty.random: _by_gap,
    Difficulty.ifd: _by_losses,
    Difficulty.eps: _by_rollouts,
    Difficulty.judge_rated: _by_rating,
    Difficulty.response_length: _by_length,
}
"""Function of each difficulty; `random` needs the gaps to know the size of the hard set."""
