"""The report's part on instructions kept out of training: how each student did there, and what was said."""

from collections.abc import Sequence
from dataclasses import dataclass

from tapir_exp.core.records import Example, Response, ResponseLoss, Verdict
from tapir_exp.core.store import Artifact
from tapir_exp.evals.held_out import HeadToHead, head_to_head, loss_change, perplexity, preferences
from tapir_exp.evals.statistics import Interval
from tapir_exp.report.run_view import RunView

GALLERY = 6
"""Instructions of the gallery."""


@dataclass(frozen=True)
class HeldOutRow:
    """S_r beside the student before it; change: of its mean loss on the teacher's responses, None for S_0."""

    round: int
    head_to_head: HeadToHead
    perplexity: float | None
    change: Interval | None


@dataclass(frozen=True)
class Transcript:
    """An instruction, and what the base model, S_0, the last student and the teacher said; None: no usable answer.

    preferred: how surely the judge preferred each student to the one before it, by round, 0 to 1.
    """

    instruction: str
    base: str | None
    first: str | None
    last: str | None
    teacher: str | None
    preferred: tuple[tuple[int, float], ...]


def held_out_rows(run: RunView) -> list[HeldOutRow]:
    """One row a student; none where nothing was kept out."""
    rows = []
    before: Sequence[ResponseLoss] = ()
    for r in run.rounds:
        verdicts = run.artifacts.get(f"held_out_verdicts-{r.number}")
        if verdicts is None:
            return []
        losses = run.artifacts[f"held_out_losses-{r.number}"].rows(ResponseLoss)
        change = loss_change(before, losses) if r.number else None
        rows.append(HeldOutRow(r.number, head_to_head(verdicts.rows(Verdict)), perplexity(losses), change))
        before = losses
    return rows


def gallery(run: RunView) -> list[Transcript]:
    """The instructions whose hashes are smallest: nobody looked at how well they went."""
    if "base_responses" not in run.artifacts:
        return []
    asked = sorted(run.artifacts["held_out"].rows(Example), key=lambda row: row.id)[:GALLERY]
    last = len(run.rounds) - 1
    base, first, final, teacher = (
        _texts(run.artifacts[name])
        for name in (
            "base_responses",
            "held_out_student_responses-0",
            f"held_out_student_responses-{last}",
            "held_out_teacher_responses",
        )
    )
    return [
        Transcript(
            row.instruction, base[row.id], first[row.id], final[row.id], teacher[row.id], _preferred(run, row.id)
        )
        for row in asked
    ]


def _preferred(run: RunView, row: str) -> tuple[tuple[int, float], ...]:
    found = []
    for r in run.rounds:
        verdicts = [v for v in run.artifacts[f"held_out_verdicts-{r.number}"].rows(Verdict) if v.id == row]
        found += [(r.number, share) for share in preferences(verdicts)]
    return tuple(found)


def _texts(answers: Artifact) -> dict[str, str | None]:
    return {answer.id: answer.text for answer in answers.rows(Response)}
