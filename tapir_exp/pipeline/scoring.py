"""Score rows for a student by the configured difficulty, from the stages of `measures.py`."""

from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import NormalDist

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
from tapir_exp.core.stored_rows import LazySequence, RowLog
from tapir_exp.distillation.curriculum.difficulty import (
    instruction_following_difficulty,
    rated_complexity,
    response_length,
    rollout_spread,
    scored_gaps,
)
from tapir_exp.distillation.judge.noise import shrunk_gaps
from tapir_exp.distillation.judge.requests import PendingPair, ResponsePair
from tapir_exp.distillation.judge.streaming import StreamingJudge
from tapir_exp.pipeline import generation, measures
from tapir_exp.pipeline.first_rows import check_judge
from tapir_exp.pipeline.measures import ScoringInputs
from tapir_exp.pipeline.response_gate import ResponseGate, check_responses
from tapir_exp.pipeline.verdict_output import verdict_output
from tapir_exp.pipeline.workspace import (
    StageOutput,
    Workspace,
    stage_name,
)

FRESH = "fresh_"
"""Prefix of the stages that score a student on rows that it has not been trained on."""


@dataclass(frozen=True)
class DifficultyScores:
    """Difficulty by row id, by the configured score, and the keys of the artifacts that it was computed from."""

    by_row: Mapping[str, float]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class PairsOfRows:
    """Pairs of an artifact of instructions, built on access.

    Attributes:
        pair: Returns a pair without the student's response, by its number from 0.
        positions: Index of the row of each pair.
    """

    pair: Callable[[int], PendingPair]
    positions: Sequence[int]

    @property
    def pending(self) -> Sequence[PendingPair]:
        """Pairs without the student's responses."""
        return LazySequence(len(self.positions), self.pair)

    def complete(self, responses: Sequence[Response]) -> Sequence[ResponsePair]:
        """Return the pairs with the student's responses to all rows."""
        return LazySequence(
            len(self.positions), lambda number: self.pair(number).with_response(responses[self.positions[number]])
        )


def score_on_seeds(ws: Workspace, student: Artifact, seeds: Artifact, teacher_responses: Artifact) -> DifficultyScores:
    """Score S_0 on the seeds; a seed without a response of the teacher gets no score."""
    rows, responses = seeds.stored_rows(Example), teacher_responses.stored_rows(Response)
    answered = array("q", (index for index, response in enumerate(responses) if response.text is not None))

    def pair(number: int) -> PendingPair:
        seed, response = rows[answered[number]], responses[answered[number]]
        return PendingPair(seed.id, seed.instruction, response.text or "", seed.response)

    return _score_student(ws, 0, student, seeds, Example, PairsOfRows(pair, answered), teacher_responses.key)


def score_on_mix(
    ws: Workspace, round_number: int, student: Artifact, mix: Artifact, references: Mapping[str, str]
) -> DifficultyScores:
    """Score the student of a round on the rows of its mix.

    Args:
        ws: The workspace of the run.
        round_number: The round.
        student: The student that was trained on the mix.
        mix: The mix, which holds the teacher's responses.
        references: Responses for a judge with `judge.reference`, by row id.
    """
    rows = mix.stored_rows(TrainingExample)

    def pair(index: int) -> PendingPair:
        row = rows[index]
        return PendingPair(row.id, row.instruction, row.response, references.get(row.id))

    pairs = PairsOfRows(pair, range(len(rows)))
    return _score_student(ws, round_number, student, mix, TrainingExample, pairs, mix.key)


def score_before_fit(
    ws: Workspace, round_number: int, student: Artifact, expansions: Artifact, prefix: str = FRESH
) -> DifficultyScores:
    """Score the student of the round before on the new rows of a round, ahead of its fit.

    The rows are new to the pool, so no fit of this run has used them.

    Args:
        ws: The workspace of the run.
        round_number: The round that the rows were written for.
        student: The student of the round before.
        expansions: The new rows.
        prefix: Start of the names of the stages.
    """
    rows = expansions.stored_rows(TrainingExample)
    if not rows:
        return DifficultyScores({}, ())

    def pair(index: int) -> PendingPair:
        return PendingPair((row := rows[index]).id, row.instruction, row.response)

    pairs = PairsOfRows(pair, range(len(rows)))
    return _score_student(ws, round_number, student, expansions, TrainingExample, pairs, expansions.key, prefix)


def score(ws: Workspace, scored: ScoringInputs) -> DifficultyScores:
    """Judge the student against the teacher, and score every row by the configured difficulty.

    The judge is called for every difficulty, since reports show the gaps of every student.
    """
    return SCORES[ws.config.curriculum.difficulty](ws, scored, measures.verdicts(ws, scored))


def _score_student(
    ws: Workspace,
    round_number: int,
    student: Artifact,
    instructions: Artifact,
    row_type: type[Example] | type[TrainingExample],
    pairs: PairsOfRows,
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
    count, label = len(pairs.positions), f"S_{round_number - 1 if prefix else round_number}"
    with ExitStack() as stack:
        judge = gate = None
        if _can_stream(ws, f"{prefix}verdicts", inputs):
            verdicts = stack.enter_context(ws.spool(Verdict))
            judge = stack.enter_context(_open_judge(ws, round_number, pairs, prefix, verdicts))
            gate = ResponseGate(ws.config, label, count, judge.submit)
        on_response = None if gate is None else gate.add
        responses = generation.student_responses(
            ws, round_number, student, instructions, row_type, on_response, prefix
        ).stored_rows(Response)
        if (
            not (gate and gate.passed)
            and ws.store.find(f"{prefix}verdicts", measures.verdicts_recipe(ws, inputs)) is None
        ):
            of_pairs = LazySequence(count, lambda number: responses[pairs.positions[number]])
            check_responses(of_pairs, ws.config, label)
        scored = ScoringInputs(round_number, student, pairs.complete(responses), inputs, prefix)
        judged = measures.verdicts(ws, scored) if judge is None else _finish_verdicts(ws, scored, judge, responses)
    return SCORES[ws.config.curriculum.difficulty](ws, scored, judged)


def _open_judge(
    ws: Workspace, round_number: int, pairs: PairsOfRows, prefix: str, verdicts: RowLog[Verdict]
) -> StreamingJudge:
    """Return a judge that works while the student generates, with the check of its first verdicts."""
    # The judge is known once a result is.
    check = check_judge(ws.config, len(pairs.positions), lambda index: judge.shown_at(index))
    judge = StreamingJudge(
        pairs.pending,
        ws.judge,
        ws.config.judge,
        stage=stage_name(f"{prefix}verdicts", round_number),
        label=measures.judge_label(round_number, prefix),
        on_result=check,
        verdicts=verdicts,
    )
    return judge


def _can_stream(ws: Workspace, stage: str, inputs: Sequence[str]) -> bool:
    """Return whether the judge may work while the student generates, and still has anything to do."""
    config = ws.config.judge
    # A batch is sent as a whole, so it needs all responses. Notes are written for all instructions first.
    if not config.stream_while_generating or any(model.batch for model in config.models) or config.writes_notes:
        return False
    # With verdicts in the store, only the responses are missing, and the judge need not be called for them.
    return ws.store.find(stage, measures.verdicts_recipe(ws, inputs)) is None


def _finish_verdicts(
    ws: Workspace, scored: ScoringInputs, judge: StreamingJudge, responses: Sequence[Response]
) -> Artifact:
    """Make the artifact of the verdicts of a judge that has worked while the student generated. Rows: Verdict."""

    def make() -> StageOutput:
        rows = judge.finish(responses)
        return replace(verdict_output(rows, scored.pairs, ws.config.judge), spend=judge.spend)

    # The ledger in the judge's thread has recorded the spend, under the name of this stage.
    return ws.rows(
        f"{scored.prefix}verdicts", scored.round, measures.verdicts_recipe(ws, scored.inputs), make, record_spend=False
    )


def _by_gap(ws: Workspace, scored: ScoringInputs, judged: Artifact) -> DifficultyScores:
    plan, verdicts = ws.config.curriculum, judged.stored_rows(Verdict)
    if plan.select_by is SelectBy.gap:
        return DifficultyScores(scored_gaps(verdicts), (judged.key,))
    bounds = shrunk_gaps(
        verdicts, NormalDist().inv_cdf(plan.select_confidence), shrink=plan.select_by is SelectBy.posterior
    )
    # What the scores are computed by is part of the keys of everything that follows from them.
    return DifficultyScores(bounds, (judged.key, f"{plan.select_by.value} {plan.select_confidence}"))


def _by_losses(ws: Workspace, scored: ScoringInputs, judged: Artifact) -> DifficultyScores:
    measured = measures.losses(ws, scored)
    scores = {
        row.id: instruction_following_difficulty(row.instructed, row.alone)
        for row in measured.rows(ResponseLoss)
        if row.instructed is not None and row.alone is not None
    }
    return DifficultyScores(scores, (judged.key, measured.key))


def _by_rollouts(ws: Workspace, scored: ScoringInputs, judged: Artifact) -> DifficultyScores:
    sampled = measures.rollouts(ws, scored)
    sampled_verdicts = measures.rollout_verdicts(ws, scored, sampled)
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
    rated = measures.ratings(ws, scored)
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
"""Function of each difficulty; `random` needs the gaps for the size of the hard set."""
