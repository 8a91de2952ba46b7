"""Figures of the overview: students, task types, and shortcuts to the rows that are worth a look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from tapir_exp.report import charts
from tapir_exp.report.templates import student_name
from tapir_exp.report.view import tables
from tapir_exp.report.view.history import Database

Cells = Mapping[str, Any]
STUDENTS = f"""
select a.run, a.student, count(*) as lines, sum(a.stage <> 'train_mix') as answered,
  sum(a.verdict in ('{tables.ABOVE}', '{tables.BELOW}')) as scored, avg(a.gap) as mean_gap,
  avg(case when a.gap is not null then a.verdict = '{tables.ABOVE}' end) as hard_share,
  sum(a.verdict = '{tables.UNSCORED}') as unscored,
  avg(case when a.orders in ('{tables.AGREE}', '{tables.ONE_TIE}', '{tables.DISAGREE}')
    then a.orders = '{tables.DISAGREE}' end) as disagree,
  sum(a.part = 'hard') as hard_rows, sum(a.part = 'rest') as rest_rows
from answers a group by a.run, a.student order by a.run, a.student
"""
TASKS = f"""
select task, count(*) as rows, sum(origin = 'expansion') as written, avg(first_gap) as first, avg(last_gap) as last,
  avg(case when last_gap is not null then verdict = '{tables.ABOVE}' end) as hard
from rows where run = :run group by task order by rows desc
"""
CHANGES = ((tables.SMALLER, "gap_change"), (tables.LARGER, "-gap_change"))
GREW = {"sort": "-expansions"}


@dataclass(frozen=True)
class Shortcut:
    """A question about the rows, with the number of rows that answer it."""

    title: str
    text: str
    count: int
    url: str


@dataclass(frozen=True)
class Overview:
    """Figures of one run.

    Attributes:
        shortcuts: Rows that are worth a look.
        tasks: Figures of each task type.
        charts: Histogram of the gaps of each student.
        expansions: Rows that the teacher wrote.
    """

    shortcuts: Sequence[Shortcut]
    tasks: Sequence[Cells]
    charts: Sequence[Markup]
    expansions: int


async def find_runs_table(database: Database) -> list[dict[str, Any]]:
    """Return the figures of every student of every run."""
    return await database.select(STUDENTS)


async def find_overview(database: Database, run: str, students: Sequence[Cells]) -> Overview:
    """Return the figures of one run."""
    tasks = await database.select(TASKS, run=run)
    (delta,) = await database.select("select delta from runs where run = :run", run=run)
    panels = []
    for student in students:
        if not student["scored"]:
            continue
        number = student["student"]
        gaps = await database.select(
            "select gap from answers where run = :run and student = :student and gap is not null",
            run=run,
            student=number,
        )
        panels.append(
            (f"{student_name(number)}, {len(gaps):,} rows".replace(",", "\u202f"), [row["gap"] for row in gaps])
        )
    drawn = [Markup(svg) for svg in charts.histograms(panels, delta["delta"])]
    return Overview(await _shortcuts(database, run), tasks, drawn, sum(task["written"] for task in tasks))


async def _shortcuts(database: Database, run: str) -> list[Shortcut]:
    (n,) = await database.select(
        f"""select sum(verdict = '{tables.ABOVE}') as hard, sum(orders = '{tables.DISAGREE}') as disagree,
        sum(gap_change < 0) as better, sum(gap_change > 0) as worse, sum(failure <> '{tables.NO_FAILURE}') as failed,
        sum(expansions > 0) as parents, sum(origin = 'expansion') as written from rows where run = :run""",
        run=run,
    )
    (dropped,) = await database.select("select count(*) as n from dropped where run = :run", run=run)
    hard = {"verdict": tables.ABOVE, "sort": "-last_gap"}
    flipped = {"orders": tables.DISAGREE, "sort": "-disagreement"}
    better, worse = ({"change": word, "sort": sort} for word, sort in CHANGES)
    found = [
        Shortcut("Still hard", "Gap above δ in the last verdict", n["hard"], _url("rows", run, hard)),
        Shortcut("Improved", "The gap became smaller", n["better"], _url("rows", run, better)),
        Shortcut("Got worse", "The gap became larger", n["worse"], _url("rows", run, worse)),
        Shortcut("Orders disagree", "The winner depends on the order", n["disagree"], _url("answers", run, flipped)),
        Shortcut("Written by the teacher", "Expansions", n["written"], _url("rows", run, {"origin": "expansion"})),
        Shortcut("Examples for the teacher", "Rows that gave rise to others", n["parents"], _url("rows", run, GREW)),
        Shortcut("Failures", "Unlabelled, empty, cut or unscored", n["failed"], _url("rows", run, {"failed": "1"})),
        Shortcut("Dropped", "Duplicates, leaks, other types", dropped["n"], _url("dropped", run, {})),
    ]
    return [shortcut for shortcut in found if shortcut.count]


def _url(page: str, run: str, query: Mapping[str, str]) -> str:
    return f"/{page}?{urlencode({'run': run, **query})}"
