"""Assemble what the stages of a run recorded into one line for each row, and one for each answer of a student."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tapir_exp.core.records import (
    Example,
    JudgeReply,
    Label,
    Response,
    TrainingExample,
    Verdict,
)
from tapir_exp.distillation.judge.noise import both_leads
from tapir_exp.report.view import tables
from tapir_exp.report.view.source import RunSource, round_of, stage_of

JUDGED = re.compile(r"^(?P<kind>(?:pass\d+_)?(?:fresh_)?)(?:student_responses|verdicts)$")
"""Stages of answers and verdicts. With a kind, the student of the round before is judged on the new rows of a round."""
MIX, REPLAY = "in the mix", "replayed"


@dataclass
class Answer:
    """One student on one row: its response, the verdict on it, and the row's place in the mix of the round.

    Attributes:
        round: Round of the stage.
        student: The student, by its round.
        stage: Stage of the verdict.
        response: The response; None if the stage has none of this row.
        verdict: The verdict, likewise.
        part: Subset in the mix of the round; None if the row is not in it.
        trained: Whether the row was in the mix, or replayed; empty if neither.
    """

    round: int
    student: int
    stage: str
    response: Response | None = None
    verdict: Verdict | None = None
    part: str | None = None
    trained: str = ""

    @property
    def gap(self) -> float | None:
        """Return the gap of the verdict; None if there is none."""
        return self.verdict.gap if self.verdict else None

    @property
    def leads(self) -> tuple[float, float] | None:
        """Return the teacher's lead in each presentation order; None unless both are scored."""
        return both_leads(self.verdict) if self.verdict else None

    @property
    def disagreement(self) -> float | None:
        """Return the points by which the gaps of the two orders differ; None unless both are scored."""
        return None if self.leads is None else abs(self.leads[0] - self.leads[1])

    @property
    def orders(self) -> str:
        """Return whether the winners of both orders agree."""
        if self.verdict is None:
            return tables.NOT_JUDGED
        if self.verdict.gap is None:
            return tables.UNSCORED
        if self.leads is None:
            return tables.ONE_ORDER
        first, second = self.leads
        if first * second < 0:
            return tables.DISAGREE
        return tables.ONE_TIE if (first == 0) != (second == 0) else tables.AGREE

    @property
    def replies(self) -> tuple[JudgeReply, ...]:
        """Return the completions of the judge."""
        return self.verdict.replies if self.verdict else ()

    def judged_as(self, delta: float) -> str:
        """Return the part that the verdict puts the row into, in words."""
        if self.verdict is None:
            return tables.NOT_JUDGED
        if self.gap is None:
            return tables.UNSCORED
        return tables.ABOVE if self.gap > delta else tables.BELOW

    @property
    def failure(self) -> tuple[str, str]:
        """Return the kind of what failed, and the reason in words; ("none", "") if nothing did."""
        if self.response is not None and self.response.text is None:
            return "no response of the student", self.response.failure or ""
        if self.verdict is not None and self.verdict.gap is None:
            reasons = [f"{reply.order.value}: {reply.failure}" for reply in self.verdict.replies if reply.failure]
            return "reply of the judge", "; ".join(reasons)
        if self.response is not None and not self.response.finished:
            return "response of the student cut", "It ended at student.max_new_tokens."
        return tables.NO_FAILURE, ""


@dataclass
class Row:
    """Everything that a run recorded of one row.

    Attributes:
        example: The seed or the expansion.
        label: Its label; None for an expansion, or if it was not labelled yet.
        task: Task type of a row in a mix, or the requested type of an expansion.
        teacher: Response of the teacher; None if it was not asked.
        answers: Answers of the students, in the order of the rounds.
        trained: The row in each mix, with the round and whether it was replayed.
        expansions: How many rows the teacher wrote with this one as an example.
    """

    example: Example
    label: Label | None = None
    task: str | None = None
    teacher: Response | None = None
    answers: list[Answer] = field(default_factory=list)
    trained: list[tuple[int, str, TrainingExample]] = field(default_factory=list)
    expansions: int = 0

    @property
    def task_name(self) -> str:
        """Return the task type, or that there is none."""
        return (self.label.task if self.label else None) or self.task or tables.NO_TASK

    @property
    def part(self) -> str:
        """Return the part of the last mix that holds the row."""
        parts = [row.subset.value for _, kind, row in self.trained if kind == MIX]
        return parts[-1] if parts else tables.NO_PART

    @property
    def gaps(self) -> list[tuple[int, float]]:
        """Return student and gap of each scored verdict, in the order of the rounds."""
        return [(answer.student, answer.gap) for answer in self.answers if answer.gap is not None]

    @property
    def orders(self) -> str:
        """Return the worst agreement of the orders over all verdicts."""
        found = [answer.orders for answer in self.answers]
        return max(found, key=tables.ORDERS_BY_SEVERITY.index, default=tables.NOT_JUDGED)

    @property
    def failure(self) -> tuple[str, str]:
        """Return the first failure in the life of the row, and its reason."""
        if self.label is not None and self.label.task is None:
            return "no task type", self.label.failure or ""
        if self.teacher is not None and self.teacher.text is None:
            return "no response of the teacher", self.teacher.failure or ""
        if self.teacher is not None and not self.teacher.finished:
            return "response of the teacher cut", "It ended at teacher.max_tokens."
        failures = (answer.failure for answer in self.answers)
        return next((found for found in failures if found[0] != tables.NO_FAILURE), (tables.NO_FAILURE, ""))


def assemble_rows(run: RunSource) -> dict[str, Row]:
    """Return every row of a run by id: seeds first, then expansions in the order of the rounds."""
    rows = {seed.id: Row(seed) for seed in _seeds(run)}
    for expansion in _expansions(run):
        rows.setdefault(expansion.id, Row(expansion.to_example(), task=expansion.task))
    for row in list(rows.values()):
        for parent in row.example.parents:
            if parent in rows:
                rows[parent].expansions += 1
    _add_labels_and_responses(run, rows)
    _add_mixes(run, rows)
    for (kind, number), answers in _answers(run).items():
        _add_answers(rows, kind, number, answers)
    for row in rows.values():
        _add_mixes_without_answer(row)
        row.answers.sort(key=lambda answer: (answer.round, answer.student))
    return rows


def _seeds(run: RunSource) -> list[Example]:
    # Rows without a response get the teacher's in a stage of their own.
    return run.rows("seeds_with_responses", Example) or run.rows("seeds", Example)


def _expansions(run: RunSource) -> Iterator[TrainingExample]:
    for name in run.artifacts:
        if stage_of(name) == "expansions":
            yield from run.rows(name, TrainingExample)


def _add_labels_and_responses(run: RunSource, rows: Mapping[str, Row]) -> None:
    for label in run.rows("task_labels", Label):
        if label.id in rows:
            rows[label.id].label = label
    for response in run.rows("teacher_responses", Response):
        if response.id in rows:
            rows[response.id].teacher = response


def _add_mixes(run: RunSource, rows: Mapping[str, Row]) -> None:
    for name in run.artifacts:
        kind = {"train_mix": MIX, "replayed_mix": REPLAY}.get(stage_of(name))
        number = round_of(name)
        if kind is None or number is None:
            continue
        for trained in run.rows(name, TrainingExample):
            if trained.id in rows:
                rows[trained.id].trained.append((number, kind, trained))
                rows[trained.id].task = trained.task or rows[trained.id].task


def _answers(run: RunSource) -> dict[tuple[str, int], dict[str, Answer]]:
    """Return answers by kind and round of their stages, and by row."""
    found: defaultdict[tuple[str, int], dict[str, Answer]] = defaultdict(dict)
    for name in run.artifacts:
        match, number = JUDGED.match(stage_of(name)), round_of(name)
        if match is None or number is None:
            continue
        kind = match["kind"]
        answers = found[kind, number]
        student = number - 1 if kind else number
        stage = f"{kind}verdicts"
        if stage_of(name) == stage:
            for verdict in run.rows(name, Verdict):
                answers.setdefault(verdict.id, Answer(number, student, stage)).verdict = verdict
        else:
            for response in run.rows(name, Response):
                answers.setdefault(response.id, Answer(number, student, stage)).response = response
    return found


def _add_answers(rows: Mapping[str, Row], kind: str, number: int, answers: Mapping[str, Answer]) -> None:
    for row_id, answer in answers.items():
        if (row := rows.get(row_id)) is None:
            continue
        mixes = [(how, trained) for at, how, trained in row.trained if at == number]
        if mixes:
            answer.trained, answer.part = mixes[0][0], mixes[0][1].subset.value
        row.answers.append(answer)


def _add_mixes_without_answer(row: Row) -> None:
    """Add a line for each mix whose student has not answered the row, such as that of the last round."""
    answered = {answer.round for answer in row.answers}
    for number, how, trained in row.trained:
        if number not in answered:
            answered.add(number)
            row.answers.append(Answer(number, number, "train_mix", part=trained.subset.value, trained=how))
