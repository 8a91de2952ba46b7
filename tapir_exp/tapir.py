"""TAPIR (arXiv 2405.13448): distil a teacher in rounds of harder, task-balanced data.

Every call is one cached stage of `pipeline/`, or a pure function of `distillation/curriculum/`. The steps:

1. Fine-tune the base model on the seeds: S_0.
2. Classify the seeds by task type, get the teacher's responses, and judge S_0 against them: the first difficulties.
3. Let alpha, the weight of the hard set, grow with the round.
4. Choose the hard set, and draw a mix under the target task distribution.
5. Let the teacher write what the pool lacks.
6. Refine the responses of the mix by task type.
7. Fine-tune the student on the mix with the alpha-weighted loss: S_r.
8. Judge S_r on the mix, which updates the difficulties.

With `curriculum.gap_rows=fresh`, S_(r-1) is judged on the new rows between 5 and 6, in place of step 8.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tapir_exp.config import Difficulty
from tapir_exp.core import events
from tapir_exp.core.events import Kind
from tapir_exp.core.records import Example, Label, Response
from tapir_exp.core.store import Artifact
from tapir_exp.distillation.curriculum.difficulty import choose_hard
from tapir_exp.distillation.curriculum.filling import fill_plan
from tapir_exp.distillation.curriculum.pool import Pool, seed_pool
from tapir_exp.distillation.curriculum.sampling import PlanSettings, plan_round
from tapir_exp.distillation.curriculum.task_mix import Shares, target_shares
from tapir_exp.pipeline import data, generation, scoring, students
from tapir_exp.pipeline.data import ExpansionInputs
from tapir_exp.pipeline.evaluation import run_suites
from tapir_exp.pipeline.held_out import HeldOutTracker
from tapir_exp.pipeline.judge_check import check_judge
from tapir_exp.pipeline.new_rows import write_new_rows
from tapir_exp.pipeline.sized_seeds import prepare_seeds
from tapir_exp.pipeline.workspace import Workspace


@dataclass(frozen=True)
class State:
    """State of a run between two rounds.

    Attributes:
        student: The latest student, as it is judged and evaluated (`sft.judged_student`).
        trained: The latest student as it was trained, which the next round continues.
        s0: S_0.
        pool: All rows, with their difficulty for that student.
        target: Task mix that every round aims at.
        references: Responses of the seed dataset by row id, for a judge that gets references.
        held_out: Instructions that no training row may repeat.
        mixes: The mixes of all rounds so far, oldest first.
    """

    student: Artifact
    trained: Artifact
    s0: Artifact
    pool: Pool
    target: Shares
    references: Mapping[str, str]
    held_out: frozenset[str]
    mixes: tuple[Artifact, ...] = ()


def distill(ws: Workspace) -> Shares | None:
    """Run the whole method, and return the task mix that its rounds aimed at; None if there were no rounds."""
    seeds = prepare_seeds(ws)
    base, base_identity = students.base_model(ws)
    held_out = HeldOutTracker(ws, seeds, base, base_identity)
    student = students.finetune_on_seeds(ws, seeds, base, base_identity)  # 1
    evaluate_student(ws, 0, student, held_out)
    if ws.config.curriculum.rounds == 0:
        events.record(Kind.STUDENT_FINISHED, round=0)
        return None
    state = score_seeds(ws, seeds, student, held_out.instructions)  # 2
    events.record(Kind.STUDENT_FINISHED, round=0)
    for number in range(1, ws.config.curriculum.rounds + 1):
        state = run_round(ws, number, state)
        evaluate_student(ws, number, state.student, held_out)
        events.record(Kind.STUDENT_FINISHED, round=number)
    return state.target


def score_seeds(ws: Workspace, seeds: Artifact, student: Artifact, held_out: frozenset[str]) -> State:
    """Score S_0 on the seeds, and return the state before the first round."""
    labels = data.classify_seeds(ws, seeds)
    responses = data.teacher_responses(ws, seeds)
    check_judge(ws, seeds, responses)
    scores = scoring.score_on_seeds(ws, student, seeds, responses)
    keys = [seeds.key, labels.key, responses.key, *scores.keys]
    stored = seeds.stored_rows(Example), labels.stored_rows(Label), responses.stored_rows(Response)
    pool = seed_pool(*stored, scores.by_row, keys)
    target = target_shares(ws.config.task_mix.target_distribution, pool.natural)
    references = {seed.id: seed.response for seed in stored[0]} if ws.config.judge.reference else {}
    return State(student, student, student, pool, target, references, held_out)


def run_round(ws: Workspace, number: int, state: State) -> State:
    """Run one round and return the state after it; the last round does not update the pool."""
    curriculum, pool = ws.config.curriculum, state.pool
    settings = PlanSettings.for_round(number, state.target, curriculum, ws.config.seed)  # 3
    hard = choose_hard(pool.difficulties, curriculum, ws.config.seed)  # 4
    candidates = pool.candidates(hard, guided=curriculum.difficulty is not Difficulty.random)
    plan = plan_round(candidates, settings)
    new = write_new_rows(ws, state.student, plan, ExpansionInputs(pool, settings, state.held_out))  # 5
    filled = fill_plan(plan, new.rows)
    data.record_plan(ws, number, filled, new.recipe)
    mix = data.build_mix(ws, number, filled, new.recipe, pool)  # 6
    rows = data.add_replayed_rows(ws, number, mix, state.mixes)
    trained = students.finetune_round(ws, number, state.trained, rows, settings.alpha, s0=state.s0)  # 7
    student = students.judged_student(ws, number, trained, rows, settings.alpha)
    state = replace(state, student=student, trained=trained, mixes=(*state.mixes, mix))
    if number == curriculum.rounds:
        return state
    if new.pool is None or curriculum.report_trained_gaps:
        scores = scoring.score_on_mix(ws, number, student, mix, state.references)  # 8
        updated = pool.update(new.rows, scores.by_row, [new.expansions.key, *scores.keys])
        return replace(state, pool=new.pool or updated)
    return replace(state, pool=new.pool)


def evaluate_student(ws: Workspace, number: int, student: Artifact, held_out: HeldOutTracker) -> None:
    """Evaluate a student on the lab benchmark, the held-out instructions and the suites, as far as configured."""
    benchmark = generation.run_lab_benchmark(ws, number, student) if ws.config.evals.problems_per_level else None
    held_out.compare(number, student)
    run_suites(ws, number, student, benchmark)
