"""Sample rows of a run, with verdicts and lineage."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from tapir_exp.core.records import Origin, Response, TrainingExample, Verdict
from tapir_exp.core.task_types import TaskType
from tapir_exp.report.run_view import RunView, by_interest


@dataclass(frozen=True)
class Judged:
    """A verdict on a row, and after which round it was given."""

    round: int
    verdict: Verdict


@dataclass(frozen=True)
class Sample:
    """One row as everybody answered it; a text is None where there is none.

    before, after: answers of the first and of the last student that was asked; after_round tells which it was.
    refined: the response the student was trained on, and refined_round when for the first time.
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
    judged: tuple[Judged, ...]

    @property
    def stages(self) -> int:
        """How far the row went: into a mix, and before a later student; whether an answer was usable plays no part."""
        return (self.refined_round is not None) + (self.after_round is not None)


def samples(run: RunView) -> list[Sample]:
    """One judged seed per task type: of those that went furthest, the one with the smallest id.

    An id is a hash of the instruction, so the choice does not look at how anyone did.
    """
    by_task: defaultdict[TaskType, list[Sample]] = defaultdict(list)
    for row in run.rounds[0].verdicts:
        task = run.task_of(row)
        if task is not None and row in run.seeds:
            by_task[task].append(_sample(run, row, task))
    return [min(by_task[task], key=lambda s: (-s.stages, s.id)) for task in by_interest(by_task)]


def _sample(run: RunView, row: str, task: TaskType) -> Sample:
    mixed = next((r for r in run.rounds if row in r.mix), None)
    later = [r for r in run.rounds[1:] if row in r.answers]
    return Sample(
        id=row,
        task=task,
        instruction=run.seeds[row].instruction,
        before=_text(run.rounds[0].answers, row),
        teacher=_text(run.responses, row),
        refined=mixed.mix[row].response if mixed else None,
        refined_round=mixed.number if mixed else None,
        after=_text(later[-1].answers, row) if later else None,
        after_round=later[-1].number if later else None,
        judged=verdicts_on(run, row),
    )


def _text(answers: Mapping[str, Response], row: str) -> str | None:
    return answers[row].text if row in answers else None


def verdicts_on(run: RunView, row: str) -> tuple[Judged, ...]:
    """Every verdict on a row, in the order of the rounds."""
    return tuple(Judged(r.number, r.verdicts[row]) for r in run.rounds if row in r.verdicts)


@dataclass(frozen=True)
class LineageStep:
    """One thing that happened to a row: kind is seed, expansion, trained or judged."""

    round: int
    kind: str
    row: str
    subset: str | None
    gap: float | None
    instruction: str | None


@dataclass(frozen=True)
class Lineage:
    """The way of one row, from the seed that it descends from to the last round that used it."""

    id: str
    task: TaskType | None
    stations: tuple[LineageStep, ...]


def lineages(run: RunView, most: int = 4) -> list[Lineage]:
    """The trails of up to `most` expansions, one per task type: of those used in the most rounds, the smallest id."""
    by_task: defaultdict[TaskType, list[TrainingExample]] = defaultdict(list)
    for row in (row for r in run.rounds for row in r.expansions.values()):
        if row.task is not None:
            by_task[row.task].append(row)
    chosen = [min(by_task[task], key=lambda row: (-_uses(run, row.id), row.id)) for task in by_interest(by_task)]
    return [Lineage(row.id, row.task, tuple(_stations(run, row))) for row in chosen[:most]]


def _uses(run: RunView, row: str) -> int:
    return sum((row in r.mix) + (row in r.verdicts) for r in run.rounds)


def _stations(run: RunView, row: TrainingExample) -> list[LineageStep]:
    line = _line(run, row)
    stations = [station for ancestor in line[:-1] for station in _birth(run, ancestor)]
    return [*stations, *_birth(run, row.id), *_life(run, row.id)]


def _line(run: RunView, row: TrainingExample) -> list[str]:
    """Ids from a seed down to `row`, always by the first parent."""
    created_in_round = {example.id: example for r in run.rounds for example in r.expansions.values()}
    line = [row.id]
    while line[0] in created_in_round and created_in_round[line[0]].parents:
        line.insert(0, created_in_round[line[0]].parents[0])
    return line


def _birth(run: RunView, row: str) -> list[LineageStep]:
    """Where a row came from; for a seed, with the verdict that made the teacher look at it."""
    if row in run.seeds:
        seed = LineageStep(0, Origin.SEED.value, row, None, None, run.seeds[row].instruction)
        return [seed, *(_judged(judged, row) for judged in verdicts_on(run, row)[:1])]
    example = next(r.expansions[row] for r in run.rounds if row in r.expansions)
    return [LineageStep(example.created_in_round, Origin.EXPANSION.value, row, None, None, example.instruction)]


def _life(run: RunView, row: str) -> list[LineageStep]:
    stations = []
    for r in run.rounds:
        if row in r.mix:
            stations.append(LineageStep(r.number, "trained", row, r.mix[row].subset.value, r.mix[row].difficulty, None))
        if row in r.verdicts:
            stations.append(_judged(Judged(r.number, r.verdicts[row]), row))
    return stations


def _judged(judged: Judged, row: str) -> LineageStep:
    return LineageStep(judged.round, "judged", row, None, judged.verdict.gap, None)
