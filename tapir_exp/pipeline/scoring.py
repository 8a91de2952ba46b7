"""How hard the rows are for a student, as artifacts: the judge's verdicts, and what another difficulty score needs."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from tapir_exp.config import Difficulty, JudgeConfig
from tapir_exp.core.records import Answer, Rating, ResponseLoss, Verdict, row_of_rollout
from tapir_exp.core.store import Artifact
from tapir_exp.distillation.curriculum.difficulty import (
    instruction_following_difficulty,
    rated_complexity,
    response_length,
    rollout_spread,
    scored_gaps,
)
from tapir_exp.distillation.judge.diagnostics import Lengths, diagnose
from tapir_exp.distillation.judge.parse import READER
from tapir_exp.distillation.judge.requests import Match, prompts_of
from tapir_exp.distillation.judge.score import judge, rate_complexity
from tapir_exp.distillation.judge.streaming import Hearing, Listen, fill, unheard
from tapir_exp.distillation.prompts import load_prompt
from tapir_exp.pipeline.workspace import Bench, Product, generation_recipe, role_recipe


@dataclass(frozen=True)
class Asked:
    """What a student was scored on.

    matches: its answers beside the teacher's responses, row by row.
    inputs: keys of the artifacts that the matches come from, the answers' included.
    """

    round: int
    student: Artifact
    matches: Sequence[Match]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Scored:
    """Difficulty by row id, by the score that the run chose; keys of the artifacts it was computed from."""

    by_row: Mapping[str, float]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Exam:
    """What a student is to answer, and to be scored on.

    blanks: the matches, still without its answers. answers_key: of the artifact that will hold them. answer: carries
    out that stage. inputs: keys of the artifacts that the blanks come from.
    """

    round: int
    student: Artifact
    blanks: Sequence[Match]
    answers_key: str
    answer: Callable[[Listen], Artifact]
    inputs: tuple[str, ...]


def examine(bench: Bench, exam: Exam) -> Scored:
    """Let the student answer, let the judge compare it with the teacher, and score every row by that.

    The judge hears each answer while the next ones are written, unless it is asked in batches or
    `judge.while_answering` is off; then, and where the answers are there already, it begins after them. What comes out
    is the same.
    """
    inputs = (exam.answers_key, *exam.inputs)
    early = _judge_while_answering(bench, exam, inputs) if _hears(bench, exam, inputs) else None
    answers = exam.answer(unheard) if early is None else bench.store.open("answers", exam.answers_key)
    given = {answer.id: answer for answer in answers.rows(Answer)}
    asked = Asked(exam.round, exam.student, [fill(blank, given[blank.id]) for blank in exam.blanks], inputs)
    return score(bench, asked, early)


def score(bench: Bench, asked: Asked, judged: Artifact | None = None) -> Scored:
    """Let the judge compare student and teacher, and score every row by the configured difficulty.

    judged: the verdicts, where they are there. The judge is asked whatever the difficulty is: its gaps are what a run
    reports of a student.
    """
    judged = verdicts(bench, asked) if judged is None else judged
    return SCORES[bench.config.curriculum.difficulty](bench, asked, judged)


def verdicts(bench: Bench, asked: Asked) -> Artifact:
    """The judge's verdicts on teacher against student. Rows: Verdict."""
    return _judged(bench, "verdicts", asked, asked.matches, asked.inputs)


def held_out_verdicts(bench: Bench, asked: Asked) -> Artifact:
    """The judge's verdicts on the student before (in the teacher's place) against this one. Rows: Verdict."""
    return _judged(bench, "held-out-verdicts", asked, asked.matches, asked.inputs)


def losses(bench: Bench, asked: Asked) -> Artifact:
    """The student's losses on the teacher's responses, with and without the instruction. Rows: ResponseLoss."""
    return _losses(bench, "losses", asked)


def held_out_losses(bench: Bench, asked: Asked) -> Artifact:
    """As `losses`, on instructions that are kept out of training."""
    return _losses(bench, "held-out-losses", asked)


def _losses(bench: Bench, stage: str, asked: Asked) -> Artifact:
    student = bench.config.student

    def make() -> Product:
        from tapir_exp.student.response_loss import Taught, response_losses

        taught = [Taught(match.id, match.instruction, match.teacher) for match in asked.matches]
        label = f"losses of S_{asked.round}"
        rows = response_losses(asked.student.path, taught, student, label)
        return Product(rows, {"failed": sum(row.failure is not None for row in rows)})

    recipe = {
        "student": asked.student.key,
        "inputs": asked.inputs,
        "template": [student.chat_template, student.system_prompt, student.max_length],
        "precision": student.precision,
    }
    return bench.rows(stage, asked.round, recipe, make)


def rollouts(bench: Bench, asked: Asked) -> Artifact:
    """Sampled answers of the student to every row. Rows: Answer, by the ids of `rollout_id`."""
    config = bench.config

    def make() -> Product:
        from tapir_exp.student.rollouts import roll_out

        prompts = [(match.id, match.instruction) for match in asked.matches]
        label = f"S_{asked.round} answers again and again"
        plan = config.curriculum.rollouts
        rows = roll_out(asked.student.path, prompts, config.student, plan, config.seed, label)
        cut, empty = sum(not row.finished for row in rows), sum(row.text is None for row in rows)
        return Product(rows, {"cut": cut, "empty": empty})

    recipe = {
        "student": asked.student.key,
        "inputs": asked.inputs,
        "answers": config.curriculum.rollouts.answers,
        "temperature": config.curriculum.rollouts.temperature,
        "seed": config.seed,
        "generation": generation_recipe(config.student),
    }
    return bench.rows("rollouts", asked.round, recipe, make)


def rollout_verdicts(bench: Bench, asked: Asked, rollouts: Artifact) -> Artifact:
    """The judge's verdicts on every sampled answer, judged as the greedy ones are. Rows: Verdict, as the rollouts."""
    shown = {match.id: match for match in asked.matches}
    matches = [
        replace(shown[row_of_rollout(answer.id)], id=answer.id, student=answer.text or "")
        for answer in rollouts.rows(Answer)
    ]
    return _judged(bench, "rollout_verdicts", asked, matches, (rollouts.key, *asked.inputs))


def ratings(bench: Bench, asked: Asked) -> Artifact:
    """How complex the judge calls every instruction. Rows: Rating."""

    def make() -> Product:
        instructions = [(match.id, match.instruction) for match in asked.matches]
        rows = rate_complexity(instructions, bench.judge, bench.config.judge, "rating the instructions")
        return Product(rows, {"unrated": sum(row.complexity is None for row in rows)})

    recipe = {
        "inputs": asked.inputs,
        "judge": role_recipe(bench.judge, bench.config.judge),
        "prompt": load_prompt("judge/complexity").text,
        "reader": READER,
    }
    return bench.rows("ratings", asked.round, recipe, make)


def _hears(bench: Bench, exam: Exam, inputs: Sequence[str]) -> bool:
    """Whether the judge can hear answers while they are written, and there are any to be written."""
    config, store = bench.config.judge, bench.store
    there = store.has("answers", exam.answers_key) or store.find("verdicts", _judged_recipe(bench, inputs)) is not None
    return config.while_answering and not config.llm.batch and not there


def _judge_while_answering(bench: Bench, exam: Exam, inputs: Sequence[str]) -> Artifact | None:
    """The verdicts, for which the answers were written; None where another process was faster."""
    heard = False

    def make() -> Product:
        nonlocal heard
        heard = True
        with Hearing(exam.blanks, bench.judge, bench.config.judge, f"judging S_{exam.round}") as hearing:
            given = {answer.id: answer for answer in exam.answer(hearing.during).rows(Answer)}
            matches = [fill(blank, given[blank.id]) for blank in exam.blanks]
            return _judged_product(matches, hearing.verdicts(given.values()), bench.config.judge)

    judged = bench.rows("verdicts", exam.round, _judged_recipe(bench, inputs), make)
    return judged if heard else None


def _judged(bench: Bench, stage: str, asked: Asked, matches: Sequence[Match], inputs: Sequence[str]) -> Artifact:
    config = bench.config.judge

    def make() -> Product:
        return _judged_product(matches, judge(matches, bench.judge, config, f"judging S_{asked.round}"), config)

    return bench.rows(stage, asked.round, _judged_recipe(bench, inputs), make)


def _judged_product(matches: Sequence[Match], rows: Sequence[Verdict], config: JudgeConfig) -> Product:
    figures = _figures(rows, {match.id: Lengths(len(match.teacher), len(match.student)) for match in matches})
    if config.reference:
        figures["referenced"] = sum(match.reference is not None for match in matches)
    return Product(rows, figures)


def _judged_recipe(bench: Bench, inputs: Sequence[str]) -> dict[str, Any]:
    config = bench.config.judge
    return {
        "inputs": list(inputs),
        "judge": role_recipe(bench.judge, config),
        "prompts": prompts_of(config),
        "reader": READER,
    }


def _figures(rows: Sequence[Verdict], lengths: Mapping[str, Lengths]) -> dict[str, Any]:
    gaps = scored_gaps(rows)
    diagnosis = diagnose(rows, lengths)
    return {
        "unscored": len(rows) - len(gaps),
        "mean_gap": fmean(gaps.values()) if gaps else None,
        "flips": diagnosis.flips,
        "diagnosis": asdict(diagnosis),
    }


def _by_gap(bench: Bench, asked: Asked, judged: Artifact) -> Scored:
    return Scored(scored_gaps(judged.rows(Verdict)), (judged.key,))


def _by_losses(bench: Bench, asked: Asked, judged: Artifact) -> Scored:
    measured = losses(bench, asked)
    scores = {
        row.id: instruction_following_difficulty(row.instructed, row.alone)
        for row in measured.rows(ResponseLoss)
        if row.instructed is not None and row.alone is not None
    }
    return Scored(scores, (judged.key, measured.key))


def _by_rollouts(bench: Bench, asked: Asked, judged: Artifact) -> Scored:
    """A row with an unscored rollout is unscored: without its worst or best answer the spread would be another."""
    answers = rollouts(bench, asked)
    marked = rollout_verdicts(bench, asked, answers)
    rewards: defaultdict[str, list[float | None]] = defaultdict(list)
    for verdict in marked.rows(Verdict):
        rewards[row_of_rollout(verdict.id)].append(verdict.student)
    plan = bench.config.curriculum.rollouts
    whole = {row: [reward for reward in given if reward is not None] for row, given in rewards.items()}
    scores = {row: rollout_spread(given, plan.beta) for row, given in whole.items() if len(given) == plan.answers}
    return Scored(scores, (judged.key, answers.key, marked.key))


def _by_rating(bench: Bench, asked: Asked, judged: Artifact) -> Scored:
    rated = ratings(bench, asked)
    known = [(row.id, row.complexity) for row in rated.rows(Rating) if row.complexity is not None]
    return Scored({row: rated_complexity(complexity) for row, complexity in known}, (judged.key, rated.key))


def _by_length(bench: Bench, asked: Asked, judged: Artifact) -> Scored:
    return Scored({match.id: response_length(match.teacher) for match in asked.matches}, (judged.key,))


SCORES: Mapping[Difficulty, Callable[[Bench, Asked, Artifact], Scored]] = {
    Difficulty.mfd: _by_gap,
    Difficulty.random: _by_gap,
    Difficulty.ifd: _by_losses,
    Difficulty.eps: _by_rollouts,
    Difficulty.judge_rated: _by_rating,
    Difficulty.response_length: _by_length,
}
"""How each difficulty is computed; `random` needs the gaps to know how many rows are hard."""
