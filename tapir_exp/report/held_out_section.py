"""Results on held-out instructions: the win rate of each student against its predecessor, and sample responses."""

from collections.abc import Sequence
from dataclasses import dataclass

from tapir_exp.core.records import Example, Response, ResponseLoss, Verdict
from tapir_exp.core.store import Artifact
from tapir_exp.evals.held_out import HeadToHead, head_to_head, loss_change, perplexity, preferences
from tapir_exp.evals.statistics import Interval
from tapir_exp.report.run_view import RunView

MAX_TRANSCRIPTS = 6
"""Held-out instructions that the report shows in full."""


@dataclass(frozen=True)
class HeldOutRow:
    """Comparison of S_r with its predecessor.

    Attributes:
        round: The round r; S_0 is compared with the base model.
        head_to_head: Win rate and counts.
        perplexity: On the teacher's responses; None if no loss was measured.
        loss_change: Change of the mean loss on the teacher's responses, in nats per token; None for S_0.
    """

    round: int
    head_to_head: HeadToHead
    perplexity: float | None
    loss_change: Interval | None


@dataclass(frozen=True)
class Transcript:
    """A held-out instruction and the responses to it; a text is None if the response is not usable.

    Attributes:
        instruction: Text of the instruction.
        base: Response of the base model.
        first: Response of S_0.
        last: Response of the last student.
        teacher: Response of the teacher.
        preferences: Round and preference of the judge for that student over its predecessor, 0 to 1.
    """

    instruction: str
    base: str | None
    first: str | None
    last: str | None
    teacher: str | None
    preferences: tuple[tuple[int, float], ...]


def held_out_rows(run: RunView) -> list[HeldOutRow]:
    """Compare each student with its predecessor; empty if the run has no held-out instructions."""
    rows = []
    previous_losses: Sequence[ResponseLoss] = ()
    for r in run.rounds:
        verdicts = run.artifacts.get(f"held_out_verdicts-{r.number}")
        if verdicts is None:
            return []
        losses = run.artifacts[f"held_out_losses-{r.number}"].rows(ResponseLoss)
        # The losses of the base model are not measured, so S_0 has no change.
        change = loss_change(previous_losses, losses) if r.number else None
        rows.append(HeldOutRow(r.number, head_to_head(verdicts.rows(Verdict)), perplexity(losses), change))
        previous_losses = losses
    return rows


def transcripts(run: RunView) -> list[Transcript]:
    """Return the held-out instructions with the smallest ids; ids are hashes, so outcomes play no part."""
    if "base_responses" not in run.artifacts:
        return []
    chosen = sorted(run.artifacts["held_out"].rows(Example), key=lambda row: row.id)[:MAX_TRANSCRIPTS]
    base, first, last, teacher = (
        _texts(run.artifacts[name])
        for name in (
            "base_responses",
            "held_out_student_responses-0",
            f"held_out_student_responses-{len(run.rounds) - 1}",
            "held_out_teacher_responses",
        )
    )
    return [
        Transcript(
            instruction=row.instruction,
            base=base[row.id],
            first=first[row.id],
            last=last[row.id],
            teacher=teacher[row.id],
            preferences=_preferences(run, row.id),
        )
        for row in chosen
    ]


def _preferences(run: RunView, row_id: str) -> tuple[tuple[int, float], ...]:
    by_round: list[tuple[int, float]] = []
    for r in run.rounds:
        verdicts = [v for v in run.artifacts[f"held_out_verdicts-{r.number}"].rows(Verdict) if v.id == row_id]
        by_round += [(r.number, preference) for preference in preferences(verdicts)]
    return tuple(by_round)


def _texts(responses: Artifact) -> dict[str, str | None]:
    return {response.id: response.text for response in responses.rows(Response)}
