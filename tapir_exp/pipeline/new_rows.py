"""New rows of a round: the teacher writes them and, with `gap_rows=fresh`, the student is judged on them."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tapir_exp.config import GapRows
from tapir_exp.core.records import DroppedRow, DropReason, Subset, TrainingExample, Verdict
from tapir_exp.core.store import DROPPED, Artifact, read_rows
from tapir_exp.distillation.curriculum.difficulty import choose_hard
from tapir_exp.distillation.curriculum.filling import measured_rows
from tapir_exp.distillation.curriculum.pool import Pool
from tapir_exp.distillation.curriculum.sampling import GenerationRequest, RoundPlan
from tapir_exp.distillation.curriculum.task_mix import apportion
from tapir_exp.pipeline import data, scoring
from tapir_exp.pipeline.data import ExpansionInputs, ExpansionPass
from tapir_exp.pipeline.scoring import DifficultyScores
from tapir_exp.pipeline.workspace import StageOutput, Workspace

NO_COUNTS = ("rows", "spend", "kept_per_call", "off_type_share", "contaminated")
"""Figures of a pass that cannot simply be added up."""


@dataclass(frozen=True)
class NewRows:
    """The rows that the teacher wrote for a round.

    Attributes:
        expansions: The artifact that holds them, in the subset that they were requested for.
        rows: The rows in the subset for the mix: the requested one or, if they were measured, that of their score.
        recipe: Keys of the artifacts that they come from.
        pool: The pool with their scores; None if they were not measured.
    """

    expansions: Artifact
    rows: list[TrainingExample]
    recipe: Mapping[str, Any]
    pool: Pool | None


def write_new_rows(ws: Workspace, student: Artifact, plan: RoundPlan, inputs: ExpansionInputs) -> NewRows:
    """Let the teacher write the new rows of a plan; with `gap_rows=fresh`, judge the student on them.

    Args:
        ws: The workspace of the run.
        student: The student of the round before, as it is judged.
        plan: The plan.
        inputs: The pool that it was drawn from, and the settings of the round.
    """
    curriculum = ws.config.curriculum
    if curriculum.gap_rows is GapRows.trained:
        expansions = data.expand(ws, inputs, plan.requests)
        return NewRows(expansions, expansions.rows(TrainingExample), {"expansions": expansions.key}, None)
    if curriculum.drop_easy_expansions:
        expansions, scores = _expand_in_passes(ws, student, plan, inputs)
    else:
        expansions = data.expand(ws, inputs, plan.requests)
        scores = scoring.score_before_fit(ws, inputs.round, student, expansions)
    written = expansions.rows(TrainingExample)
    measured = inputs.pool.update(written, scores.by_row, [expansions.key, *scores.keys])
    hard = choose_hard(measured.difficulties, curriculum, ws.config.seed)
    recipe = {"expansions": expansions.key, "fresh": list(scores.keys)}
    return NewRows(expansions, measured_rows(written, scores.by_row, hard), recipe, measured)


def remaining_requests(
    requests: Sequence[GenerationRequest],
    written: Sequence[TrainingExample],
    hard: Collection[str],
    limit: int | None,
) -> list[GenerationRequest]:
    """Return the requests with the rows that they still lack; a hard request lacks rows that the student cannot answer.

    Args:
        requests: The requests of the plan; their order is kept, and filled ones stay with a count of 0.
        written: Accepted rows so far, in the subset that they were requested for.
        hard: Ids of those above the threshold.
        limit: Most rows that may be written in all; None for no limit.
    """
    delivered = Counter((row.task, row.subset) for row in written)
    hard_rows = Counter(row.task for row in written if row.id in hard)
    lacking = {
        number: max(
            0,
            request.count
            - (hard_rows[request.task] if request.subset is Subset.HARD else delivered[request.task, request.subset]),
        )
        for number, request in enumerate(requests)
    }
    if limit is not None and sum(lacking.values()) > (room := max(0, limit - len(written))):
        lacking = apportion(room, lacking)
    return [replace(request, count=lacking[number]) for number, request in enumerate(requests)]


def _expand_in_passes(
    ws: Workspace, student: Artifact, plan: RoundPlan, inputs: ExpansionInputs
) -> tuple[Artifact, DifficultyScores]:
    """Write the new rows pass by pass, and judge the student after each; its easy rows are requested again."""
    settings = inputs.settings
    passes: list[Artifact] = []
    by_row: dict[str, float] = {}
    keys: tuple[str, ...] = ()
    written: list[TrainingExample] = []
    seen: frozenset[str] = frozenset()
    for number in range(ws.config.teacher.max_expansion_passes):
        hard = [row_id for row_id, gap in by_row.items() if gap > settings.delta]
        requests = remaining_requests(plan.requests, written, hard, settings.max_new_rows)
        if passes and not any(request.count for request in requests):
            break
        only = ExpansionPass(number, seen, keys)
        expansions = data.expand(ws, inputs, requests, only)
        scores = scoring.score_before_fit(ws, inputs.round, student, expansions, f"pass{number}_{scoring.FRESH}")
        passes.append(expansions)
        by_row.update(scores.by_row)
        keys = (*keys, expansions.key, *scores.keys)
        rows = expansions.rows(TrainingExample)
        written += rows
        seen |= {row.instruction for row in rows} | {row.instruction or "" for row in _dropped_rows(expansions)}
    kept = _join_passes(ws, inputs.round, passes, by_row, keys, settings.delta)
    _join_verdicts(ws, inputs.round, keys)
    return kept, DifficultyScores(by_row, keys)


def _join_passes(
    ws: Workspace,
    round_number: int,
    passes: Sequence[Artifact],
    by_row: Mapping[str, float],
    keys: Sequence[str],
    delta: float,
) -> Artifact:
    """Join the rows of all passes without the easy rows of hard requests. Rows: TrainingExample."""

    def make() -> StageOutput:
        written = [row for expansions in passes for row in expansions.rows(TrainingExample)]
        dropped = [row for expansions in passes for row in _dropped_rows(expansions)]
        easy = {row.id for row in written if row.subset is Subset.HARD and by_row.get(row.id, delta + 1) <= delta}
        for number, row in enumerate(written, 1):
            if row.id in easy:
                detail = f"gap {by_row[row.id]:g} in a request for hard rows"
                source = f"round {round_number}"
                dropped.append(
                    DroppedRow(
                        source=source, row=number, reason=DropReason.EASY, detail=detail, instruction=row.instruction
                    )
                )
        kept = [row for row in written if row.id not in easy]
        return StageOutput(kept, _joined_figures(passes, kept, by_row, delta, len(easy)), dropped)

    return ws.rows("expansions", round_number, {"passes": list(keys), "delta": delta}, make)


def _joined_figures(
    passes: Sequence[Artifact], kept: Sequence[TrainingExample], by_row: Mapping[str, float], delta: float, easy: int
) -> dict[str, Any]:
    """Return the sums of the figures of all passes; `calls_per_hard_row` is None if no hard row was kept."""
    names = [name for name in passes[0].figures if name not in NO_COUNTS]
    sums = {name: sum(expansions.figures[name] for expansions in passes) for name in names}
    leaks = [expansions.figures["contaminated"] for expansions in passes]
    hard = sum(by_row.get(row.id, delta) > delta for row in kept)
    labelled = len(kept) + easy + sum(sums[name] for name in ("off_type", "unrated", "unlike", "surplus"))
    return {
        **sums,
        # Later passes request again what earlier ones did not deliver.
        "ordered": passes[0].figures["ordered"],
        "contaminated": None if None in leaks else sum(leaks),
        "easy": easy,
        "kept_per_call": len(kept) / sums["calls"] if sums["calls"] else None,
        "calls_per_hard_row": sums["calls"] / hard if hard else None,
        "off_type_share": sums["off_type"] / labelled if labelled else None,
    }


def _join_verdicts(ws: Workspace, round_number: int, keys: Sequence[str]) -> Artifact:
    """Join the verdicts of all passes, those on dropped rows included, for reports. Rows: Verdict."""
    names = [f"pass{number}_{scoring.FRESH}verdicts" for number in range(ws.config.teacher.max_expansion_passes)]
    entries = [entry for entry in ws.entries if entry.stage in names and entry.key in keys]

    def make() -> StageOutput:
        verdicts = [ws.store.open(entry.stage, entry.key) for entry in entries]
        rows = [row for judged in verdicts for row in judged.rows(Verdict)]
        counts = {name: sum(judged.figures[name] for judged in verdicts) for name in ("unscored", "flips")}
        return StageOutput(rows, counts)

    return ws.rows(f"{scoring.FRESH}verdicts", round_number, {"passes": list(keys)}, make)


def _dropped_rows(expansions: Artifact) -> list[DroppedRow]:
    return read_rows(expansions.path / DROPPED, DroppedRow)
