"""The whole history of one row, and the comparison of two students on the rows that both have answered."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tapir_exp.report.view import tables

Cells = Mapping[str, Any]
RELATED = """
select r.* from parents p join rows r on r.run = p.run and r.id = p.{other} where p.run = :run and p.{own} = :id
"""
SHOWN_CHILDREN = 40
"""Expansions of a row that its page shows; the number of all is shown, too."""


class Database(Protocol):
    """A database that answers queries."""

    async def select(self, sql: str, **params: object) -> list[dict[str, Any]]:
        """Run a query and return its rows."""


@dataclass(frozen=True)
class Step:
    """One round of a row: what it was trained on, the student's answer, and the replies of the judge.

    Attributes:
        round: The round.
        answer: The student's response and the verdict; None if the row was only trained on.
        replies: The judge's completions.
        mixes: The row in the mix of the round, and in the replayed one.
    """

    round: int
    answer: Cells | None
    replies: Sequence[Cells]
    mixes: Sequence[Cells]


@dataclass(frozen=True)
class History:
    """Everything that a run recorded of one row.

    Attributes:
        row: The row itself.
        gaps: Student and gap of each verdict.
        steps: Its rounds, oldest first.
        parents: Rows in the teacher's prompt for this one.
        children: The first rows that the teacher wrote with this one as an example.
        elsewhere: The same row in the other runs.
    """

    row: Cells
    gaps: Sequence[tuple[int, float]]
    steps: Sequence[Step]
    parents: Sequence[Cells]
    children: Sequence[Cells]
    elsewhere: Sequence[Cells]


async def find_history(database: Database, run: str, row_id: str) -> History | None:
    """Return the history of a row; None if the run has no such row."""
    found = await database.select("select * from rows where id = :id and run = :run", id=row_id, run=run)
    if not found:
        return None
    (row,) = found
    key = row["key"]
    answers = await database.select("select * from answers where row = :key order by round, student, key", key=key)
    replies = await database.select("select * from replies where row = :key order by key", key=key)
    mixes = await database.select("select * from mixes where row = :key order by round, key", key=key)
    of_row = {"run": run, "id": row_id}
    parents = await database.select(f"{RELATED.format(other='parent', own='child')} order by p.place", **of_row)
    children = await database.select(
        f"{RELATED.format(other='child', own='parent')} order by r.created, r.key limit {SHOWN_CHILDREN}", **of_row
    )
    elsewhere = await database.select("select * from rows where id = :id and run <> :run order by run", **of_row)
    for other in (*parents, *children, *elsewhere):
        other["gaps"] = json.loads(other["gaps"])
    return History(row, json.loads(row["gaps"]), _steps(answers, replies, mixes), parents, children, elsewhere)


def _steps(answers: Sequence[Cells], replies: Sequence[Cells], mixes: Sequence[Cells]) -> list[Step]:
    of_answer: defaultdict[int, list[Cells]] = defaultdict(list)
    for reply in replies:
        of_answer[reply["answer"]].append(reply)
    by_round: defaultdict[int, list[Cells]] = defaultdict(list)
    for mix in mixes:
        by_round[mix["round"]].append(mix)
    steps = []
    for answer in answers:
        # The mix of a round is shown once, before the answer of the student that was trained on it.
        trained = by_round.pop(answer["round"], [])
        is_line_of_mix = answer["stage"] == "train_mix"
        steps.append(Step(answer["round"], None if is_line_of_mix else answer, of_answer[answer["key"]], trained))
    return steps


@dataclass(frozen=True)
class Student:
    """A student of a run; its round names it."""

    run: str
    round: int

    @classmethod
    def parse(cls, text: str) -> "Student | None":
        """Read `RUN:ROUND`; None if it is not in this form."""
        run, _, number = text.rpartition(":")
        return cls(run, int(number)) if run and number.isascii() and number.isdigit() and len(number) < 6 else None

    def __str__(self) -> str:
        return f"{self.run}:{self.round}"


@dataclass(frozen=True)
class Comparison:
    """Two students on the rows that both have a gap on.

    Attributes:
        rows: Number of these rows.
        mean_a: Mean gap of the first, in points.
        mean_b: Mean gap of the second.
        better: Rows with a smaller gap with the second.
        worse: Rows with a larger gap.
        moves: Rows by the verdict on the first and on the second.
        changes: Change of the gap of each row.
        lines: Rows of the page, with both answers.
    """

    rows: int
    mean_a: float | None
    mean_b: float | None
    better: int
    worse: int
    moves: Mapping[tuple[str, str], int]
    changes: Sequence[float]
    lines: Sequence[Cells]


PAIRS = """
from answers a join answers b on b.run = :run_b and b.student = :round_b and b.id = a.id
where a.run = :run_a and a.student = :round_a and a.gap is not null and b.gap is not null
"""
COMPARED_ORDERS = {
    "better": "b.gap - a.gap, a.key",
    "worse": "b.gap - a.gap desc, a.key",
    "gap": "b.gap desc, a.key",
    "same": "abs(b.gap - a.gap), a.key",
}
"""Orders of the lines of a comparison; nothing of a query string enters the statement."""
LINES = """
select a.id, a.instruction, a.task, a.gap as gap_a, b.gap as gap_b, b.gap - a.gap as change, a.verdict as verdict_a,
  b.verdict as verdict_b, a.response as response_a, b.response as response_b, ra.teacher_response as teacher
"""


async def compare(
    database: Database, a: Student, b: Student, *, task: str, order: str, size: int, start: int
) -> Comparison:
    """Compare two students on the rows that both have a gap on.

    Args:
        database: The database.
        a: The first student.
        b: The second one.
        task: Task type of the rows; empty for all.
        order: A key of `COMPARED_ORDERS`.
        size: Lines of the page.
        start: Lines before the page.
    """
    pairs = PAIRS + (" and a.task = :task" if task else "")
    params = {"run_a": a.run, "round_a": a.round, "run_b": b.run, "round_b": b.round, "task": task}
    groups = await database.select(
        "select a.gap as gap_a, b.gap as gap_b, a.verdict as va, b.verdict as vb, count(*) as rows "
        f"{pairs} group by 1, 2, 3, 4",
        **params,
    )
    joined = pairs.replace("where", "join rows ra on ra.key = a.row\nwhere", 1)
    lines = await database.select(
        f"{LINES} {joined} order by {COMPARED_ORDERS[order]} limit {int(size)} offset {int(start)}", **params
    )
    total = sum(group["rows"] for group in groups)
    moves: defaultdict[tuple[str, str], int] = defaultdict(int)
    for group in groups:
        moves[group["va"], group["vb"]] += group["rows"]
    changes = [group["gap_b"] - group["gap_a"] for group in groups for _ in range(group["rows"])]
    return Comparison(
        rows=total,
        mean_a=sum(group["gap_a"] * group["rows"] for group in groups) / total if total else None,
        mean_b=sum(group["gap_b"] * group["rows"] for group in groups) / total if total else None,
        better=sum(change < 0 for change in changes),
        worse=sum(change > 0 for change in changes),
        moves={(x, y): moves[x, y] for x in (tables.ABOVE, tables.BELOW) for y in (tables.ABOVE, tables.BELOW)},
        changes=changes,
        lines=lines,
    )
