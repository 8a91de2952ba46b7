"""TAPIR itself: the student's first fit, and then round after round of harder, task-balanced data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tapir_exp.config import Difficulty
from tapir_exp.core.records import Example, Label, Response, TrainingExample
from tapir_exp.core.store import Artifact
from tapir_exp.distillation.curriculum.difficulty import choose_hard
from tapir_exp.distillation.curriculum.pool import Pool, seed_pool
from tapir_exp.distillation.curriculum.sampling import alpha_for_round, plan_round
from tapir_exp.distillation.curriculum.task_mix import Shares, target_shares
from tapir_exp.pipeline import data, generation, held_out, scoring, students
from tapir_exp.pipeline.students import ParentModel
from tapir_exp.pipeline.workspace import Workspace


@dataclass(frozen=True)
class State:
    """Where a run stands between two rounds: the student, and the pool with its difficulties for that student.

    references: the seeds' own responses by row id, for a judge that sees them.
    """

    student: Artifact
    pool: Pool
    target: Shares
    references: Mapping[str, str]


def distill(ws: Workspace) -> Shares | None:
    """The whole method: S_0, its difficulties on the seeds, and every round after them.

    Returns the task mix that the rounds aimed at; None where there were no rounds.
    """
    curriculum = ws.config.curriculum
    seeds = data.load_seeds(ws)
    start, base = students.base_model(ws)
    examiner = _examiner(ws, seeds, start, base)
    student = students.finetune_on_seeds(ws, seeds, start, base)
    _benchmark(ws, 0, student)
    examiner(0, student)
    if curriculum.rounds == 0:
        return None
    state = score_seeds(ws, seeds, student)
    for number in range(1, curriculum.rounds + 1):
        state = run_round(ws, state, number)
        examiner(number, state.student)
    return state.target


def _examiner(
    ws: Workspace, seeds: Artifact, start: ParentModel, base: Mapping[str, Any]
) -> Callable[[int, Artifact], None]:
    """What compares a student with the one before it on what is kept out of training; nothing where nothing is."""
    if not ws.config.evals.held_out_size:
        return lambda number, student: None
    rows = held_out.hold_out(ws, seeds)
    ws.held_out_instructions = frozenset(row.instruction for row in rows.rows(Example))
    held = held_out.ask_teacher(ws, rows)
    said = [held_out.evaluate_base(ws, held, start.path, base)]

    def examine(number: int, student: Artifact) -> None:
        said.append(held_out.compare_with_previous(ws, number, student, held, said[-1]))

    return examine


def score_seeds(ws: Workspace, seeds: Artifact, student: Artifact) -> State:
    """Score S_0 against the teacher on every seed: the first difficulties."""
    labels = data.classify_seeds(ws, seeds)
    responses = data.teacher_responses(ws, seeds)
    scored = scoring.score_on_seeds(ws, student, seeds, responses)
    keys = [seeds.key, labels.key, responses.key, *scored.keys]
    pool = seed_pool(seeds.rows(Example), labels.rows(Label), responses.rows(Response), scored.by_row, keys)
    references = {seed.id: seed.response for seed in seeds.rows(Example)}
    return State(student, pool, target_shares(ws.config.task_mix.target_distribution, pool.natural), references)


def run_round(ws: Workspace, state: State, number: int) -> State:
    """One round, as the paper's algorithm box has it; the last one ends with the new student."""
    curriculum, seed = ws.config.curriculum, ws.config.seed
    pool = state.pool
    alpha = alpha_for_round(number, curriculum.alpha, curriculum.delta_alpha)
    hard = choose_hard(pool.difficulties, curriculum, seed)
    candidates = pool.candidates(hard, guided=curriculum.difficulty is not Difficulty.random)
    plan = plan_round(candidates, state.target, curriculum.rows_per_round, alpha, f"seed {seed} round {number}")
    choice = _choice(ws, state.target, alpha, number)
    expansions = data.expand(ws, number, pool, plan, choice)
    data.record_plan(ws, number, plan, expansions)
    mix = data.build_mix(ws, number, plan, expansions, pool)
    student = students.finetune_round(ws, number, state.student, mix, alpha)
    _benchmark(ws, number, student)
    if number == curriculum.rounds:
        return replace(state, student=student)
    scored = scoring.score_on_mix(ws, number, student, mix, state.references)
    pool = pool.update(expansions.rows(TrainingExample), scored.by_row, [expansions.key, *scored.keys])
    return replace(state, student=student, pool=pool)


def _choice(ws: Workspace, target: Shares, alpha: float, number: int) -> dict[str, object]:
    """What, with the pool, determines a round's plan."""
    curriculum = ws.config.curriculum
    return {
        "round": number,
        "rows": curriculum.rows_per_round,
        "alpha": alpha,
        "difficulty": curriculum.difficulty,
        "delta": curriculum.delta,
        "hard_share": curriculum.hard_fraction,
        "beta": curriculum.rollouts.beta,
        "target": dict(target),
        "seed": ws.config.seed,
    }


def _benchmark(ws: Workspace, number: int, student: Artifact) -> None:
    if ws.config.evals.problems_per_level:
        generation.run_lab_benchmark(ws, number, student)
