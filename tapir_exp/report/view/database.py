"""Write the SQLite file that `tapir view` shows, from the artifacts of one or more runs."""

import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

from tapir_exp.core.records import (
    BenchmarkResult,
    DroppedRow,
    Example,
    Response,
    Verdict,
)
from tapir_exp.core.store import DROPPED, atomic_path
from tapir_exp.report.view import tables
from tapir_exp.report.view.assembly import Answer, Row, assemble_rows
from tapir_exp.report.view.source import RunSource, round_of, stage_of

DATABASE = "view.sqlite"
VERSION = 1
"""Version of the tables; a file of another version is made again."""
INSERT_BATCH = 5000
Line = tuple[Any, ...]


def database_path(directory: Path) -> Path:
    """Return the file of a run or a sweep: beside its other outputs, or in a directory of ours if that is read only."""
    if os.access(directory, os.W_OK):
        return directory / DATABASE
    digest = sha256(str(directory.resolve()).encode(errors="replace")).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else "user"
    own = Path(tempfile.gettempdir()) / f"tapir-view-{user}"
    own.mkdir(mode=0o700, exist_ok=True)
    return own / f"{digest}.sqlite"


def fingerprint(runs: Sequence[RunSource]) -> str:
    """Return a digest of what a database of these runs holds."""
    return sha256("\n".join([str(VERSION), *(run.fingerprint for run in runs)]).encode()).hexdigest()


def is_current(path: Path, runs: Sequence[RunSource]) -> bool:
    """Return whether a file holds these runs as they are now."""
    if not path.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("select value from meta where name = 'fingerprint'").fetchone()
    except sqlite3.Error:
        return False
    return found is not None and found[0] == fingerprint(runs)


def build_database(runs: Sequence[RunSource], path: Path, report: Callable[[str], None] = lambda name: None) -> None:
    """Write the database of some runs, whole or not at all.

    Args:
        runs: The runs.
        path: The file; one that exists is replaced.
        report: Called with the name of each run before it is read.
    """
    with atomic_path(path, durable=False) as tmp:
        tmp.unlink(missing_ok=True)
        with closing(sqlite3.connect(tmp)) as connection:
            # The file is made again after a crash, so that it needs neither a journal nor a sync.
            connection.executescript(
                "pragma journal_mode = off; pragma synchronous = off; pragma cache_size = -200000;"
            )
            connection.executescript(tables.SCHEMA)
            writer = _Writer(connection)
            for run in runs:
                report(run.name)
                writer.write(run)
            for statement in tables.index_statements():
                connection.execute(statement)
            connection.execute("insert into meta values ('fingerprint', ?)", (fingerprint(runs),))
            connection.execute("insert into rows_fts(rows_fts) values ('optimize')")
            connection.execute("analyze")
            connection.commit()


class _Writer:
    """Writes runs into the tables, with keys that count over all runs."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._last = {"rows": 0, "answers": 0}

    def write(self, run: RunSource) -> None:
        """Write everything of one run."""
        rows = assemble_rows(run)
        first = self._last["rows"] + 1
        keys = {row_id: first + number for number, row_id in enumerate(rows)}
        self._last["rows"] += len(rows)
        self._insert("rows", (_row_line(run, keys[row_id], row) for row_id, row in rows.items()))
        self._insert("rows_fts(rowid, instruction, responses, replies)", (_texts(keys[i], r) for i, r in rows.items()))
        answers = list(self._number_answers(rows, keys))
        self._insert("answers", (_answer_line(run, key, of, row, answer) for key, of, row, answer in answers))
        self._insert("replies", (line for key, of, _, answer in answers for line in _reply_lines(run, key, of, answer)))
        self._insert("mixes", (line for i, row in rows.items() for line in _mix_lines(run, keys[i], row)))
        self._insert("parents", (line for row in rows.values() for line in _parent_lines(run, row)))
        self._insert("dropped", _dropped_lines(run))
        self._insert("benchmark", _benchmark_lines(run))
        self._insert("held_out", _held_out_lines(run))
        self._insert("runs", [_run_line(run, len(rows))])

    def _number_answers(
        self, rows: Mapping[str, Row], keys: Mapping[str, int]
    ) -> Iterator[tuple[int, int, Row, Answer]]:
        """Yield the key of each answer, the key of its row, the row and the answer."""
        for row_id, row in rows.items():
            for answer in row.answers:
                self._last["answers"] += 1
                yield self._last["answers"], keys[row_id], row, answer

    def _insert(self, table: str, lines: Iterable[Line]) -> None:
        lines = iter(lines)
        first = next(lines, None)
        if first is None:
            return
        places = ", ".join("?" * len(first))
        statement = f"insert into {table} values ({places})"
        self._connection.execute(statement, first)
        self._connection.executemany(statement, lines)


def _run_line(run: RunSource, rows: int) -> Line:
    return (
        *(run.name, str(run.path), _clean(run.title), _clean(run.arm), run.seed, str(run.state), run.delta),
        *(json.dumps(run.alphas), run.rounds, rows, len(run.artifacts), _clean("\n".join(run.problems))),
    )


def _row_line(run: RunSource, key: int, row: Row) -> Line:
    example, label, teacher = row.example, row.label, row.teacher
    gaps = row.gaps
    first, last = (gaps[0][1], gaps[-1][1]) if gaps else (None, None)
    change = last - first if first is not None and last is not None and len(gaps) > 1 else None
    verdicts = [answer.judged_as(run.delta) for answer in row.answers if answer.verdict]
    points = [answer.disagreement for answer in row.answers if answer.disagreement is not None]
    failure, detail = row.failure
    last_verdict = verdicts[-1] if verdicts else tables.NOT_JUDGED
    return (
        *(key, run.name, example.id, str(row.task_name), str(example.origin), example.round, row.part),
        *(json.dumps(gaps), first, last, change, _change_name(change, len(gaps)), last_verdict, row.orders),
        *(max(points, default=None), len(verdicts), len(row.trained), row.expansions, failure),
        *(label.confidence if label else None, _clean(label.source) if label else None),
        *(teacher.finished if teacher else None, _clean(example.instruction), _clean(detail)),
        *(_clean(label.raw) if label else None, _clean(example.response), _clean(teacher.text) if teacher else None),
    )


def _change_name(change: float | None, verdicts: int) -> str:
    if change is None:
        return tables.JUDGED_ONCE if verdicts else tables.NOT_JUDGED
    return tables.SMALLER if change < 0 else tables.LARGER if change > 0 else tables.SAME


def _answer_line(run: RunSource, key: int, row_key: int, row: Row, answer: Answer) -> Line:
    example, verdict, response = row.example, answer.verdict, answer.response
    leads = answer.leads or (None, None)
    failure, detail = answer.failure
    return (
        *(key, row_key, run.name, example.id, answer.round, answer.student, answer.stage),
        *(str(row.task_name), str(example.origin), answer.part or tables.NO_PART, answer.trained or tables.NO_PART),
        *(answer.gap, answer.judged_as(run.delta)),
        *(verdict.teacher if verdict else None, verdict.student if verdict else None, *leads, answer.disagreement),
        *(answer.orders, failure, response.finished if response else None, _clean(example.instruction)),
        *(_clean(detail), _clean(response.text) if response else None),
    )


def _reply_lines(run: RunSource, key: int, row_key: int, answer: Answer) -> Iterator[Line]:
    for reply in answer.replies:
        yield (
            *(None, key, row_key, run.name, answer.round, answer.student, reply.order.value, reply.teacher),
            *(reply.student, _clean(reply.failure), reply.finish_reason, _clean(reply.raw)),
        )


def _mix_lines(run: RunSource, row_key: int, row: Row) -> Iterator[Line]:
    for number, kind, trained in row.trained:
        task = str(trained.task or tables.NO_TASK)
        yield (
            *(None, row_key, run.name, trained.id, number, trained.subset.value, kind, task, str(trained.origin)),
            *(trained.difficulty, _clean(trained.response)),
        )


def _parent_lines(run: RunSource, row: Row) -> Iterator[Line]:
    for place, parent in enumerate(row.example.parents):
        yield run.name, row.example.id, parent, row.example.round, place


def _texts(key: int, row: Row) -> Line:
    """Return the texts of a row for the full-text search, each response once."""
    responses = [row.example.response, row.teacher.text if row.teacher else None]
    responses += [answer.response.text for answer in row.answers if answer.response]
    responses += [trained.response for _, _, trained in row.trained]
    replies = [reply.raw for answer in row.answers for reply in answer.replies]
    return key, _clean(row.example.instruction), _joined(responses), _joined(replies)


def _joined(texts: Iterable[str | None]) -> str:
    return _clean("\n".join(dict.fromkeys(text for text in texts if text))) or ""


def _dropped_lines(run: RunSource) -> Iterator[Line]:
    for name, path in run.artifacts.items():
        if not (path / DROPPED).is_file():
            continue
        for row in run.dropped(name, DroppedRow):
            yield (
                *(None, run.name, stage_of(name), round_of(name) or 0, _clean(row.source), row.row, str(row.reason)),
                *(_clean(row.detail), _clean(row.instruction)),
            )


def _benchmark_lines(run: RunSource) -> Iterator[Line]:
    for name in run.artifacts:
        if stage_of(name) != "benchmark":
            continue
        for result in run.rows(name, BenchmarkResult):
            yield (
                *(None, run.name, round_of(name) or 0, str(result.task), result.family, result.level),
                *(_clean(result.instruction), _clean(result.expected), _clean(result.response)),
                *("right" if result.exact else "wrong", result.score),
            )


def _held_out_lines(run: RunSource) -> Iterator[Line]:
    instructions = {row.id: row.instruction for row in run.rows("held_out", Example)}
    taught = _response_texts(run, "held_out_teacher_responses")
    previous = _response_texts(run, "base_responses")
    for number in range(run.rounds + 1):
        texts = _response_texts(run, f"held_out_student_responses-{number}")
        for verdict in run.rows(f"held_out_verdicts-{number}", Verdict):
            # The predecessor takes the teacher's place in these pairs.
            gain = None if verdict.gap is None else -verdict.gap
            yield (
                *(None, run.name, number, verdict.id, _clean(instructions.get(verdict.id)), gain, _outcome(gain)),
                *(previous.get(verdict.id), texts.get(verdict.id), taught.get(verdict.id)),
                _clean("\n\n".join(f"[{reply.order.value}] {reply.raw}" for reply in verdict.replies)),
            )
        previous = texts


def _response_texts(run: RunSource, name: str) -> dict[str, str | None]:
    return {response.id: _clean(response.text) for response in run.rows(name, Response)}


def _outcome(gain: float | None) -> str:
    if gain is None:
        return tables.UNSCORED
    return "better" if gain > 0 else "worse" if gain < 0 else "tied"


def _clean(text: str | None) -> str | None:
    """Return a text that SQLite can store: a model may have written half a surrogate pair."""
    return None if text is None else text.encode("utf-8", errors="replace").decode("utf-8")
