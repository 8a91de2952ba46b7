"""TAPIR itself: the student's first fit, and then round after round of harder, task-balanced data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tapir_exp.config import Difficulty
from tapir_exp.core.records import Example, Label, Response, TrainingExample
from tapir_exp.core.store import Artifact
from tapir_exp.distillation.curriculum.difficulty import choose_hard
from tapir_exp.distillation.curriculum.pool import Pool, seed_pool
from tapir_exp.distillation.curriculum.sampling import alpha_for_round, plan_round
from tapir_exp.distillation.curriculum.task_mix import Shares, target_shares
from tapir_exp.distillation.judge.requests import ResponsePair
from tapir_exp.distillation.judge.streaming import Listen
from tapir_exp.pipeline import data, generation, held_out, students
from tapir_exp.pipeline.scoring import DifficultyScores, ScoringRequest, score_student
from tapir_exp.pipeline.students import ParentModel
from tapir_exp.pipeline.workspace import Workspace

UNANSWERED = ""
"""What a match has in the place of the student's answer until that is there."""


@dataclass(frozen=True)
class State:
    """Where a run stands between two rounds: the student, and the pool with its difficulties for that student.

    references: the seeds' own responses by row id, for a judge that sees them.
    """

    student: Artifact
    pool: Pool
    target: Shares
    references: Mapping[str, str]


def distill(bench: Workspace) -> Shares | None:
    """The whole method: S_0, its difficulties on the seeds, and every round after them.

    Returns the task mix that the rounds aimed at; None where there were no rounds.
    """
    curriculum = bench.config.curriculum
    seeds = data.load_seeds(bench)
    start, base = students.base_model(bench)
    examiner = _examiner(bench, seeds, start, base)
    student = students.finetune_on_seeds(bench, seeds, start, base)
    _benchmark(bench, 0, student)
    examiner(0, student)
    if curriculum.rounds == 0:
        return None
    state = score_seeds(bench, seeds, student)
    for number in range(1, curriculum.rounds + 1):
        state = run_round(bench, state, number)
        examiner(number, state.student)
    return state.target


def _examiner(
    bench: Workspace, seeds: Artifact, start: ParentModel, base: Mapping[str, Any]
) -> Callable[[int, Artifact], None]:
    """What compares a student with the one before it on what is kept out of training; nothing where nothing is."""
    if not bench.config.evals.held_out:
        return lambda number, student: None
    rows = held_out.hold_out(bench, seeds)
    bench.kept_out = frozenset(row.instruction for row in rows.rows(Example))
    held = held_out.ask_teacher(bench, rows)
    said = [held_out.evaluate_base(bench, held, start.path, base)]

    def examine(number: int, student: Artifact) -> None:
        said.append(held_out.compare_with_previous(bench, number, student, held, said[-1]))

    return examine


def score_seeds(bench: Workspace, seeds: Artifact, student: Artifact) -> State:
    """Score S_0 against the teacher on every seed: the first difficulties."""
    labels = data.classify_seeds(bench, seeds)
    responses = data.teacher_responses(bench, seeds)
    scored = _examine(bench, 0, student, seeds, _seed_blanks(seeds, responses), responses.key)
    keys = [seeds.key, labels.key, responses.key, *scored.keys]
    pool = seed_pool(seeds.rows(Example), labels.rows(Label), responses.rows(Response), scored.by_row, keys)
    references = {seed.id: seed.response for seed in seeds.rows(Example)}
    return State(student, pool, target_shares(bench.config.tasks.ratios, pool.natural), references)


def run_round(bench: Workspace, state: State, number: int) -> State:
    """One round, as the paper's algorithm box has it; the last one ends with the new student."""
    curriculum, seed = bench.config.curriculum, bench.config.seed
    pool = state.pool
    alpha = alpha_for_round(number, curriculum.alpha, curriculum.delta_alpha)
    hard = choose_hard(pool.difficulties, curriculum, seed)
    candidates = pool.candidates(hard, guided=curriculum.difficulty is not Difficulty.random)
    plan = plan_round(candidates, state.target, curriculum.rows, alpha, f"seed {seed} round {number}")
    choice = _choice(bench, state.target, alpha, number)
    expansions = data.expand(bench, number, pool, plan, choice)
    data.record_plan(bench, number, plan, expansions)
    mix = data.build_mix(bench, number, plan, expansions, pool)
    student = students.finetune_round(bench, number, state.student, mix, alpha)
    _benchmark(bench, number, student)
    if number == curriculum.rounds:
        return replace(state, student=student)
    scored = _examine(bench, number, student, mix, _mix_blanks(mix, state.references), mix.key)
    pool = pool.after(expansions.rows(TrainingExample), scored.by_row, [expansions.key, *scored.keys])
    return replace(state, student=student, pool=pool)


def _choice(bench: Workspace, target: Shares, alpha: float, number: int) -> dict[str, object]:
    """What, with the pool, determines a round's plan."""
    curriculum = bench.config.curriculum
    return {
        "round": number,
        "rows": curriculum.rows,
        "alpha": alpha,
        "difficulty": curriculum.difficulty,
        "delta": curriculum.delta,
        "hard_share": curriculum.hard_share,
        "beta": curriculum.rollouts.beta,
        "target": dict(target),
        "seed": bench.config.seed,
    }


def _benchmark(bench: Workspace, number: int, student: Artifact) -> None:
    if bench.config.evals.per_cell:
        generation.run_lab_benchmark(bench, number, student)


def _examine(
    bench: Workspace, number: int, student: Artifact, asked: Artifact, blanks: Sequence[ResponsePair], origin: str
) -> DifficultyScores:
    """The student's answers to the rows of `asked`, judged against the teacher's; `origin` is where those are from."""

    def answer(listen: Listen) -> Artifact:
        return generation.student_responses(bench, number, student, asked, listen)

    key = generation.student_responses_key(bench, student, asked)
    return score_student(bench, ScoringRequest(number, student, blanks, key, answer, (origin,)))


def _seed_blanks(seeds: Artifact, responses: Artifact) -> list[ResponsePair]:
    """The teacher's side of the seeds; one without the teacher's response cannot be scored."""
    texts = {response.id: response.text for response in responses.rows(Response)}
    return [
        ResponsePair(seed.id, seed.instruction, text, UNANSWERED, seed.response)
        for seed in seeds.rows(Example)
        if (text := texts[seed.id]) is not None
    ]


def _mix_blanks(mix: Artifact, references: Mapping[str, str]) -> list[ResponsePair]:
    return [
        ResponsePair(row.id, row.instruction, row.response, UNANSWERED, references.get(row.id))
        for row in mix.rows(TrainingExample)
    ]
