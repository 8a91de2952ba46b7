"""Tables of the database that `tapir view` shows, and the words in their cells.

A cell that something can be filtered by holds a word instead of NULL, so that every group has a name.
"""

from typing import NamedTuple

NO_TASK = "unlabelled"
NO_PART = "in no mix"
NO_FAILURE = "none"
NOT_JUDGED = "not judged"
UNSCORED = "unscored"
ABOVE, BELOW = "above δ", "up to δ"
"""Verdicts on a row: with a gap above the threshold it belongs to the hard set of the next round."""
SMALLER, SAME, LARGER, JUDGED_ONCE = "smaller", "same", "larger", "judged once"
"""Changes of the gap from the first verdict to the last one."""
AGREE, ONE_TIE, DISAGREE, ONE_ORDER = "agree", "one tie", "disagree", "one order"
"""Winners of the two presentation orders."""
ORDERS_BY_SEVERITY = (NOT_JUDGED, ONE_ORDER, AGREE, ONE_TIE, UNSCORED, DISAGREE)

SCHEMA = """
create table meta (name text primary key, value text);
create table runs (
  run text primary key, path text, title text, arm text, seed integer, state text, delta real, alphas text,
  rounds integer, rows integer, artifacts integer, problems text
);
create table rows (
  key integer primary key, run text, id text, task text, origin text, created integer, part text,
  gaps text, first_gap real, last_gap real, gap_change real, change text, verdict text, orders text, disagreement real,
  judged integer, mixes integer, expansions integer, failure text, confidence real,
  classifier text, teacher_finished integer, instruction text, failure_detail text, label_raw text,
  seed_response text, teacher_response text
);
create table answers (
  key integer primary key, row integer references rows(key), run text, id text, round integer, student integer,
  stage text, task text, origin text, part text, trained text, gap real, verdict text,
  teacher real, student_score real, gap_teacher_first real, gap_student_first real, disagreement real, orders text,
  failure text, finished integer, instruction text, failure_detail text, response text
);
create table replies (
  key integer primary key, answer integer references answers(key), row integer references rows(key), run text,
  round integer, student integer, shown text, teacher real, student_score real, failure text, finish_reason text,
  raw text
);
create table mixes (
  key integer primary key, row integer references rows(key), run text, id text, round integer, part text, kind text,
  task text, origin text, difficulty real, response text
);
create table parents (run text, child text, parent text, round integer, place integer);
create table dropped (
  key integer primary key, run text, stage text, round integer, source text, line integer, reason text, detail text,
  instruction text
);
create table benchmark (
  key integer primary key, run text, round integer, task text, family text, level integer, instruction text,
  expected text, response text, correct text, score real
);
create table held_out (
  key integer primary key, run text, round integer, id text, instruction text, gain real, outcome text,
  previous_response text, response text, teacher_response text, raw text
);
create virtual table rows_fts using fts5 (instruction, responses, replies, content='', tokenize='unicode61');
"""
"""Everything is written once, so that indexes are made after the rows.

Long texts come last in a table: SQLite would have to read through them to reach the columns behind them.
"""


class Indexed(NamedTuple):
    """A table with the columns that it is filtered by, those that it is sorted by, and those that refer to others."""

    table: str
    filtered: tuple[str, ...] = ()
    sorted: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


INDEXED = (
    Indexed(
        "rows",
        ("task", "origin", "part", "created", "verdict", "change", "orders", "failure"),
        ("first_gap", "last_gap", "gap_change", "disagreement", "expansions"),
    ),
    Indexed(
        "answers",
        ("student", "round", "verdict", "part", "task", "origin", "orders", "trained", "failure"),
        ("gap", "disagreement"),
        ("row",),
    ),
    Indexed("replies", references=("answer", "row")),
    Indexed("mixes", references=("row",)),
    Indexed("dropped", ("stage", "reason", "round")),
    Indexed("benchmark", ("task", "round", "family", "level", "correct"), ("score",)),
    Indexed("held_out", ("round", "outcome"), ("gain",)),
)


def index_statements() -> list[str]:
    """Return the statements that make every index.

    One index of a table holds all columns of its filters, so that the lines of every value are counted without reading
    the rows. That is eight to forty times faster than an index for each column.
    """
    covering = [
        f"create index {one.table}_filters on {one.table}({', '.join(('run', *one.filtered, *one.sorted))})"
        for one in INDEXED
        if one.filtered
    ]
    single = [
        f"create index {one.table}_{column} on {one.table}({column})"
        for one in INDEXED
        for column in (*one.sorted, *one.references)
    ]
    return [
        *covering,
        *single,
        "create index rows_id on rows(id, run)",
        "create index answers_pair on answers(run, student, id, gap, verdict, task)",
        "create index parents_parent on parents(run, parent)",
        "create index parents_child on parents(run, child)",
    ]
