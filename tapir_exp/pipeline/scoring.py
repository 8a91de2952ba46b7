"""How hard the rows are for a student, as artifacts: the judge's verdicts, and what another difficulty score needs."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from tapir_exp.config import Difficulty, JudgeConfig
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
from tapir_exp.distillation.judge.diagnostics import Lengths, diagnose_judge
from tapir_exp.distillation.judge.parse import PARSER_VERSION
from tapir_exp.distillation.judge.requests import ResponsePair, judge_prompts
from tapir_exp.distillation.judge.score import rate_complexity, score_pairs
from tapir_exp.distillation.judge.streaming import Hearing, Listen, fill, unheard
from tapir_exp.distillation.prompts import load_prompt
from tapir_exp.pipeline import generation
from tapir_exp.pipeline.workspace import StageOutput, Workspace, generation_recipe, role_recipe


@dataclass(frozen=True)
class ScoringInputs:
    """What a student was scored on.

    matches: its answers beside the teacher's responses, row by row.
    inputs: keys of the artifacts that the matches come from, the answers' included.
    """

    round: int
    student: Artifact
    matches: Sequence[ResponsePair]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class DifficultyScores:
    """Difficulty by row id, by the score that the run chose; keys of the artifacts it was computed from."""

    by_row: Mapping[str, float]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class ScoringRequest:
    """What a student is to answer, and to be scored on.

    blanks: the matches, still without its answers. answers_key: of the artifact that will hold them. answer: carries
    out that stage. inputs: keys of the artifacts that the blanks come from.
    """

    round: int
    student: Artifact
    blanks: Sequence[ResponsePair]
    answers_key: str
    answer: Callable[[Listen], Artifact]
    inputs: tuple[str, ...]


UNANSWERED = ""
"""What a match has in the place of the student's answer until that is there."""


def score_on_seeds(ws: Workspace, student: Artifact, seeds: Artifact, teacher_responses: Artifact) -> DifficultyScores:
    """Score S_0 on the seeds; a seed without the teacher's response cannot be scored."""
    texts = {response.id: response.text for response in teacher_responses.rows(Response)}
    blanks = [
        ResponsePair(seed.id, seed.instruction, text, UNANSWERED, seed.response)
        for seed in seeds.rows(Example)
        if (text := texts[seed.id]) is not None
    ]
    return _examine(ws, 0, student, seeds, blanks, teacher_responses.key)


def score_on_mix(
    ws: Workspace, number: int, student: Artifact, mix: Artifact, references: Mapping[str, str]
) -> DifficultyScores:
    """Score the student of a round on the rows of its mix."""
    blanks = [
        ResponsePair(row.id, row.instruction, row.response, UNANSWERED, references.get(row.id))
        for row in mix.rows(TrainingExample)
    ]
    return _examine(ws, number, student, mix, blanks, mix.key)


def _examine(
    ws: Workspace, number: int, student: Artifact, asked: Artifact, blanks: Sequence[ResponsePair], origin: str
) -> DifficultyScores:
    """Score the student's responses to `asked` against the teacher's; `origin` is where those are from."""

    def answer(listen: Listen) -> Artifact:
        return generation.student_responses(ws, number, student, asked, listen)

    key = generation.student_responses_key(ws, student, asked)
    return score_student(ws, ScoringRequest(number, student, blanks, key, answer, (origin,)))


def score_student(ws: Workspace, exam: ScoringRequest) -> DifficultyScores:
    """Let the student answer, let the judge compare it with the teacher, and score every row by that.

    The judge hears each answer while the next ones are written, unless it is asked in batches or
    `score_pairs.stream_while_generating` is off; then, and where the answers are there already, it begins after them. What comes out
    is the same.
    """
    inputs = (exam.answers_key, *exam.inputs)
    early = _judge_while_answering(ws, exam, inputs) if _hears(ws, exam, inputs) else None
    answers = exam.answer(unheard) if early is None else ws.store.open("student_responses", exam.answers_key)
    given = {answer.id: answer for answer in answers.rows(Response)}
    asked = ScoringInputs(exam.round, exam.student, [fill(blank, given[blank.id]) for blank in exam.blanks], inputs)
    return score(ws, asked, early)


def score(ws: Workspace, asked: ScoringInputs, judged: Artifact | None = None) -> DifficultyScores:
    """Let the judge compare student and teacher, and score every row by the configured difficulty.

    judged: the verdicts, where they are there. The judge is asked whatever the difficulty is: its gaps are what a run
    reports of a student.
    """
    judged = verdicts(ws, asked) if judged is None else judged
    return SCORES[ws.config.curriculum.difficulty](ws, asked, judged)


def verdicts(ws: Workspace, asked: ScoringInputs) -> Artifact:
    """The judge's verdicts on teacher against student. Rows: Verdict."""
    return _judged(ws, "verdicts", asked, asked.matches, asked.inputs)


def held_out_verdicts(ws: Workspace, asked: ScoringInputs) -> Artifact:
    """The judge's verdicts on the student before (in the teacher's place) against this one. Rows: Verdict."""
    return _judged(ws, "held_out_verdicts", asked, asked.matches, asked.inputs)


def losses(ws: Workspace, asked: ScoringInputs) -> Artifact:
    """The student's losses on the teacher's responses, with and without the instruction. Rows: ResponseLoss."""
    return _losses(ws, "losses", asked)


def held_out_losses(ws: Workspace, asked: ScoringInputs) -> Artifact:
    """As `losses`, on instructions that are kept out of training."""
    return _losses(ws, "held_out_losses", asked)


def _losses(ws: Workspace, stage: str, asked: ScoringInputs) -> Artifact:
    student = ws.config.student

    def make() -> StageOutput:
        from tapir_exp.student.response_loss import LossRow, response_losses

        taught = [LossRow(match.id, match.instruction, match.teacher) for match in asked.matches]
        label = f"losses of S_{asked.round}"
        rows = response_losses(asked.student.path, taught, student, label)
        return StageOutput(rows, {"failed": sum(row.failure is not None for row in rows)})

    recipe = {
        "student": asked.student.key,
        "inputs": asked.inputs,
        "template": [student.chat_template, student.system_prompt, student.max_length],
        "precision": student.precision,
    }
    return ws.rows(stage, asked.round, recipe, make)


def rollouts(ws: Workspace, asked: ScoringInputs) -> Artifact:
    """Sampled answers of the student to every row. Rows: Answer, by the ids of `rollout_id`."""
    config = ws.config

    def make() -> StageOutput:
        from tapir_exp.student.rollouts import sample_rollouts

        prompts = [(match.id, match.instruction) for match in asked.matches]
        label = f"S_{asked.round} answers again and again"
        plan = config.curriculum.rollouts
        rows = sample_rollouts(asked.student.path, prompts, config.student, plan, config.seed, label)
        cut, empty = sum(not row.finished for row in rows), sum(row.text is None for row in rows)
        return StageOutput(rows, {"cut": cut, "empty": empty})

    recipe = {
        "student": asked.student.key,
        "inputs": asked.inputs,
        "num_samples": config.curriculum.rollouts.num_samples,
        "temperature": config.curriculum.rollouts.temperature,
        "seed": config.seed,
        "generation": generation_recipe(config.student),
    }
    return ws.rows("rollouts", asked.round, recipe, make)


def rollout_verdicts(ws: Workspace, asked: ScoringInputs, rollouts: Artifact) -> Artifact:
    """The judge's verdicts on every sampled answer, judged as the greedy ones are. Rows: Verdict, as the rollouts."""
    shown = {match.id: match for match in asked.matches}
    matches = [
        replace(shown[row_id_of_rollout(answer.id)], id=answer.id, student=answer.text or "")
        for answer in rollouts.rows(Response)
    ]
    return _judged(ws, "rollout_verdicts", asked, matches, (rollouts.key, *asked.inputs))


def ratings(ws: Workspace, asked: ScoringInputs) -> Artifact:
    """How complex the judge calls every instruction. Rows: Rating."""

    def make() -> StageOutput:
        instructions = [(match.id, match.instruction) for match in asked.matches]
        rows = rate_complexity(instructions, ws.judge, ws.config.judge, "rating the instructions")
        return StageOutput(rows, {"unrated": sum(row.complexity is None for row in rows)})

    recipe = {
        "inputs": asked.inputs,
        "judge": role_recipe(ws.judge, ws.config.judge),
        "prompt": load_prompt("judge/complexity").text,
        "reader": PARSER_VERSION,
    }
    return ws.rows("ratings", asked.round, recipe, make)


def _hears(ws: Workspace, exam: ScoringRequest, inputs: Sequence[str]) -> bool:
    """Whether the judge can hear answers while they are written, and there are any to be written."""
    config, store = ws.config.judge, ws.store
    there = (
        store.has("student_responses", exam.answers_key)
        or store.find("verdicts", _judged_recipe(ws, inputs)) is not None
    )
    return config.stream_while_generating and not config.llm.batch and not there


def _judge_while_answering(ws: Workspace, exam: ScoringRequest, inputs: Sequence[str]) -> Artifact | None:
    """The verdicts, for which the answers were written; None where another process was faster."""
    heard = False

    def make() -> StageOutput:
        nonlocal heard
        heard = True
        with Hearing(exam.blanks, ws.judge, ws.config.judge, f"judging S_{exam.round}") as hearing:
            given = {answer.id: answer for answer in exam.answer(hearing.during).rows(Response)}
            matches = [fill(blank, given[blank.id]) for blank in exam.blanks]
            return _judged_product(matches, hearing.verdicts(given.values()), ws.config.judge)

    judged = ws.rows("verdicts", exam.round, _judged_recipe(ws, inputs), make)
    return judged if heard else None


def _judged(
    ws: Workspace, stage: str, asked: ScoringInputs, matches: Sequence[ResponsePair], inputs: Sequence[str]
) -> Artifact:
    config = ws.config.judge

    def make() -> StageOutput:
        return _judged_product(matches, score_pairs(matches, ws.judge, config, f"judging S_{asked.round}"), config)

    return ws.rows(stage, asked.round, _judged_recipe(ws, inputs), make)


def _judged_product(matches: Sequence[ResponsePair], rows: Sequence[Verdict], config: JudgeConfig) -> StageOutput:
    figures = _figures(rows, {match.id: Lengths(len(match.teacher), len(match.student)) for match in matches})
    if config.reference:
        figures["referenced"] = sum(match.reference is not None for match in matches)
    return StageOutput(rows, figures)


def _judged_recipe(ws: Workspace, inputs: Sequence[str]) -> dict[str, Any]:
    config = ws.config.judge
    return {
        "inputs": list(inputs),
        "judge": role_recipe(ws.judge, config),
        "prompts": judge_prompts(config),
        "reader": PARSER_VERSION,
    }


def _figures(rows: Sequence[Verdict], lengths: Mapping[str, Lengths]) -> dict[str, Any]:
    gaps = scored_gaps(rows)
    diagnosis = diagnose_judge(rows, lengths)
    return {
        "unscored": len(rows) - len(gaps),
        "mean_gap": fmean(gaps.values()) if gaps else None,
        "flips": diagnosis.flips,
        "diagnosis": asdict(diagnosis),
    }


def _by_gap(ws: Workspace, asked: ScoringInputs, judged: Artifact) -> DifficultyScores:
    return DifficultyScores(scored_gaps(judged.rows(Verdict)), (judged.key,))


def _by_losses(ws: Workspace, asked: ScoringInputs, judged: Artifact) -> DifficultyScores:
    measured = losses(ws, asked)
    scores = {
        row.id: instruction_following_difficulty(row.instructed, row.alone)
        for row in measured.rows(ResponseLoss)
        if row.instructed is not None and row.alone is not None
    }
    return DifficultyScores(scores, (judged.key, measured.key))


def _by_rollouts(ws: Workspace, asked: ScoringInputs, judged: Artifact) -> DifficultyScores:
    """A row with an unscored rollout is unscored: without its worst or best answer the spread would be another."""
    answers = rollouts(ws, asked)
    marked = rollout_verdicts(ws, asked, answers)
    rewards: defaultdict[str, list[float | None]] = defaultdict(list)
    for verdict in marked.rows(Verdict):
        rewards[row_id_of_rollout(verdict.id)].append(verdict.student)
    plan = ws.config.curriculum.rollouts
    whole = {row: [reward for reward in given if reward is not None] for row, given in rewards.items()}
    scores = {row: rollout_spread(given, plan.beta) for row, given in whole.items() if len(given) == plan.num_samples}
    return DifficultyScores(scores, (judged.key, answers.key, marked.key))


def _by_rating(ws: Workspace, asked: ScoringInputs, judged: Artifact) -> DifficultyScores:
    rated = ratings(ws, asked)
    known = [(row.id, row.complexity) for row in rated.rows(Rating) if row.complexity is not None]
    return DifficultyScores({row: rated_complexity(complexity) for row, complexity in known}, (judged.key, rated.key))


def _by_length(ws: Workspace, asked: ScoringInputs, judged: Artifact) -> DifficultyScores:
    return DifficultyScores({match.id: response_length(match.teacher) for match in asked.matches}, (judged.key,))


SCORES: Mapping[Difficulty, Callable[[Workspace, ScoringInputs, Artifact], DifficultyScores]] = {
    Difficulty.mfd: _by_gap,
    Difficulty.random: _by_gap,
    Difficulty.ifd: _by_losses,
    Difficulty.eps: _by_rollouts,
    Difficulty.judge_rated: _by_rating,
    Difficulty.response_length: _by_length,
}
"""How each difficulty is computed; `random` needs the gaps to know how many rows are hard."""
