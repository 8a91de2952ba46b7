"""Sample rows of a run with their verdicts, and the lineage of expansions."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from tapir_exp.core.records import Origin, Response, TrainingExample, Verdict
from tapir_exp.core.task_types import TaskType
from tapir_exp.report.run_view import RunView, boosted_first
from tapir_exp.report.templates import RARE


@dataclass(frozen=True)
class RoundVerdict:
    """A verdict on a row, and the student that it is about, by its round."""

    round: int
    verdict: Verdict


@dataclass(frozen=True)
class Sample:
    """One seed with the responses of students and teacher; a text is None if there is none.

    Attributes:
        id: Row id.
        task: Task type of the row.
        instruction: Text of the instruction.
        before: Response of S_0.
        teacher: Response of the teacher.
        refined: Response that the student was trained on.
        refined_round: First round with the row in its mix; None if no round drew it.
        after: Response of the last student that answered it after S_0.
        after_round: Round of that student; None if there is none.
        verdicts: Every verdict on the row.
    """

    id: str
    task: TaskType
    instruction: str
    before: str | None
    teacher: str | None
    refined: str | None
    refined_round: int | None
    after: str | None
    after_round: int | None
    verdicts: tuple[RoundVerdict, ...]

    @property
    def stages(self) -> int:
        """Count the stages that the row reached: a training mix, a later student; usable responses or not."""
        return (self.refined_round is not None) + (self.after_round is not None)


def samples(run: RunView) -> list[Sample]:
    """Select one judged seed per task type: of those that reached the most stages, the one with the smallest id.

    An id is a hash of the instruction, so the selection is independent of the outcome. A type that is rare among the
    seeds and not in the target has no sample: its rows are mostly errors of the classifier.
    """
    by_task: defaultdict[TaskType, list[Sample]] = defaultdict(list)
    # Only seeds have a response of S_0, which the sample shows as "before".
    for row_id in run.rounds[0].verdicts:
        task = run.task_of(row_id)
        if task is not None and row_id in run.seeds:
            by_task[task].append(_sample(run, row_id, task))
    shown = [task for task, found in by_task.items() if _is_common(run, task, len(found))]
    return [min(by_task[task], key=lambda s: (-s.stages, s.id)) for task in boosted_first(shown)]


def _is_common(run: RunView, task: TaskType, judged: int) -> bool:
    return bool((run.manifest.target or {}).get(task)) or judged >= RARE * len(run.rounds[0].verdicts)


def _sample(run: RunView, row_id: str, task: TaskType) -> Sample:
    trained = next((r for r in run.rounds if row_id in r.mix), None)
    later = [r for r in run.rounds[1:] if row_id in r.responses]
    return Sample(
        id=row_id,
        task=task,
        instruction=run.seeds[row_id].instruction,
        before=_text(run.rounds[0].responses, row_id),
        teacher=_text(run.teacher_responses, row_id),
        refined=trained.mix[row_id].response if trained else None,
        refined_round=trained.number if trained else None,
        after=_text(later[-1].responses, row_id) if later else None,
        after_round=later[-1].number if later else None,
        verdicts=verdicts_on(run, row_id),
    )


def _text(responses: Mapping[str, Response], row_id: str) -> str | None:
    return responses[row_id].text if row_id in responses else None


def verdicts_on(run: RunView, row_id: str) -> tuple[RoundVerdict, ...]:
    """Return every verdict on a row, in the order of the rounds."""
    return tuple(RoundVerdict(r.number, r.verdicts[row_id]) for r in run.rounds if row_id in r.verdicts)


@dataclass(frozen=True)
class LineageStep:
    """One event in the life of a row.

    Attributes:
        round: Round of the event.
        kind: seed, expansion, trained or judged.
        row_id: The row, or an ancestor of it.
        subset: Part of the mix, for `trained`.
        gap: Gap of the verdict, for `judged`; difficulty at the time, for `trained`.
        instruction: Text of the row, for `seed` and `expansion`.
    """

    round: int
    kind: str
    row_id: str
    subset: str | None
    gap: float | None
    instruction: str | None


@dataclass(frozen=True)
class Lineage:
    """Events of one row and its ancestors, from the seed to the last round that used the row."""

    id: str
    task: TaskType | None
    steps: tuple[LineageStep, ...]


def lineages(run: RunView, limit: int = 4) -> list[Lineage]:
    """Trace up to `limit` expansions, one per task type: of those used most often, the one with the smallest id."""
    by_task: defaultdict[TaskType, list[TrainingExample]] = defaultdict(list)
    for row in (row for r in run.rounds for row in r.expansions.values()):
        if row.task is not None:
            by_task[row.task].append(row)
    chosen = [min(by_task[task], key=lambda row: (-_uses(run, row.id), row.id)) for task in boosted_first(by_task)]
    return [Lineage(row.id, row.task, tuple(_steps(run, row))) for row in chosen[:limit]]


def _uses(run: RunView, row_id: str) -> int:
    return sum((row_id in r.mix) + (row_id in r.verdicts) for r in run.rounds)


def _steps(run: RunView, row: TrainingExample) -> list[LineageStep]:
    ancestors = _line(run, row)[:-1]
    steps = [step for ancestor in ancestors for step in _creation(run, ancestor)]
    return [*steps, *_creation(run, row.id), *_uses_by_round(run, row.id)]


def _line(run: RunView, row: TrainingExample) -> list[str]:
    """Return the ids from a seed down to `row`, following the first parent."""
    expansions = {example.id: example for r in run.rounds for example in r.expansions.values()}
    line = [row.id]
    # A row has several parents, its in-context examples; one line is enough for the page.
    while line[0] in expansions and expansions[line[0]].parents:
        line.insert(0, expansions[line[0]].parents[0])
    return line


def _creation(run: RunView, row_id: str) -> list[LineageStep]:
    """Return the origin of a row; for a seed also its first verdict, by which it became a source of expansions."""
    if row_id in run.seeds:
        seed = LineageStep(0, Origin.SEED.value, row_id, None, None, run.seeds[row_id].instruction)
        return [seed, *(_judged(verdict, row_id) for verdict in verdicts_on(run, row_id)[:1])]
    example = next(r.expansions[row_id] for r in run.rounds if row_id in r.expansions)
    return [LineageStep(example.created_in_round, Origin.EXPANSION.value, row_id, None, None, example.instruction)]


def _uses_by_round(run: RunView, row_id: str) -> list[LineageStep]:
    steps = []
    # Within a round, training comes before the verdict on the trained student.
    for r in run.rounds:
        if row_id in r.mix:
            row = r.mix[row_id]
            steps.append(LineageStep(r.number, "trained", row_id, row.subset.value, row.difficulty, None))
        if row_id in r.verdicts:
            steps.append(_judged(RoundVerdict(r.number, r.verdicts[row_id]), row_id))
    return steps


def _judged(judged: RoundVerdict, row_id: str) -> LineageStep:
    return LineageStep(judged.round, "judged", row_id, None, judged.verdict.gap, None)
