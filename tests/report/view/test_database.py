"""The database of a run: every row with its history, made again only if the run has changed."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tapir_exp.core.manifest import MANIFEST, Manifest
from tapir_exp.core.records import BOTH_ORDERS, Example, JudgeReply, Response, TrainingExample, Verdict
from tapir_exp.report.view import database, tables
from tapir_exp.report.view.assembly import Answer
from tapir_exp.report.view.database import build_database, database_path, is_current
from tapir_exp.report.view.source import RunSource, find_runs

MakeRun = Callable[..., Path]
Select = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def run(synthetic_run: MakeRun) -> RunSource:
    """Return a synthetic run."""
    return find_runs(synthetic_run(arm="tapir", size=120, held_out_instructions=5) / "runs" / "lab")[0]


@pytest.fixture(scope="module")
def select(run: RunSource, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Select]:
    """Build the database of the run, and return a function that queries it."""
    path = tmp_path_factory.mktemp("view") / "view.sqlite"
    build_database([run], path)
    with closing(sqlite3.connect(path)) as connection:
        yield lambda sql, *values: connection.execute(sql, values).fetchall()


def test_database_has_every_row_and_verdict(select: Select, run: RunSource) -> None:
    seeds = run.rows("seeds", Example)
    expansions = [row for n in (1, 2, 3) for row in run.rows(f"expansions-{n}", TrainingExample)]
    assert select("select count(*) from rows where origin = 'seed'") == [(len(seeds),)]
    assert select("select count(*) from rows where origin = 'expansion'") == [(len(expansions),)]
    for number in (0, 1, 2):
        for verdict in run.rows(f"verdicts-{number}", Verdict):
            ((key, gap),) = select("select key, gap from answers where id = ? and student = ?", verdict.id, number)
            assert gap == verdict.gap
            replies = select("select shown, teacher, raw from replies where answer = ? order by key", key)
            assert replies == [(reply.order.value, reply.teacher, reply.raw) for reply in verdict.replies]
    parents = select("select child, parent from parents order by child, place")
    assert sorted(parents) == sorted((row.id, parent) for row in expansions for parent in row.parents)
    for number in (1, 2, 3):
        mix = run.rows(f"train_mix-{number}", TrainingExample)
        found = select("select id, part from mixes where round = ? and kind = 'in the mix'", number)
        assert sorted(found) == sorted((row.id, row.subset.value) for row in mix)
    assert select("select count(*) from held_out") == [(20,)]


def test_row_has_its_gaps_in_order(select: Select) -> None:
    rows = select("select gaps, first_gap, last_gap, gap_change, change from rows where judged > 1")
    assert rows
    for gaps, first, last, change, word in rows:
        values = [gap for _, gap in json.loads(gaps)]
        assert (first, last) == (values[0], values[-1])
        if len(values) > 1:
            assert change == pytest.approx(last - first)
            assert word == (tables.SMALLER if change < 0 else tables.LARGER if change > 0 else tables.SAME)


def test_search_finds_instructions_responses_and_replies(select: Select) -> None:
    query = "select count(*) from rows where key in (select rowid from rows_fts where rows_fts match ?)"
    for word in ("instruction", "teacher", "script"):
        assert select(query, word)[0][0] > 0


def test_counts_of_a_filter_read_one_index_only(select: Select) -> None:
    for one in tables.INDEXED[:2]:  # the large tables
        for column in one.filtered:
            query = f"select {column}, count(*) from {one.table} where {one.filtered[0]} = 'x' group by {column}"
            plan = " ".join(step[3] for step in select(f"explain query plan {query}"))
            assert "USING COVERING INDEX" in plan, query


def test_database_is_kept_until_the_run_changes(fake_run: MakeRun) -> None:
    run_dir = fake_run()
    path = database_path(run_dir)
    assert path == run_dir / "view.sqlite"
    assert not is_current(path, find_runs(run_dir))
    build_database(find_runs(run_dir), path)
    assert is_current(path, find_runs(run_dir))
    manifest = Manifest.load(run_dir)
    manifest.model_copy(update={"artifacts": manifest.artifacts[:-1]}).write(run_dir)
    assert not is_current(path, find_runs(run_dir))
    (run_dir / MANIFEST).unlink()
    path.write_text("no database")
    assert not is_current(path, find_runs(run_dir))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_database_of_a_read_only_run_is_in_a_directory_of_ours(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert database_path(tmp_path).parent != tmp_path


def test_half_a_surrogate_pair_can_be_stored() -> None:
    assert database._clean("a\ud800b") == "a?b"


def verdict(*leads: tuple[float, float] | None) -> Verdict:
    replies = [
        JudgeReply(
            order=order, teacher=pair and pair[0], student=pair and pair[1], raw="", failure=None if pair else "x"
        )
        for order, pair in zip(BOTH_ORDERS, leads, strict=False)
    ]
    scored = all(leads)
    return Verdict(id="a", replies=tuple(replies), teacher=5.0 if scored else None, student=4.0 if scored else None)


@pytest.mark.parametrize(
    ("judged", "orders"),
    [
        (verdict((8, 4), (8, 5)), tables.AGREE),
        (verdict((8, 4), (4, 8)), tables.DISAGREE),
        (verdict((8, 4), (5, 5)), tables.ONE_TIE),
        (verdict((5, 5), (6, 6)), tables.AGREE),
        (verdict((8, 4)), tables.ONE_ORDER),
        (verdict((8, 4), None), tables.UNSCORED),
        (None, tables.NOT_JUDGED),
    ],
)
def test_answer_names_the_agreement_of_the_orders(judged: Verdict | None, orders: str) -> None:
    assert Answer(0, 0, "verdicts", verdict=judged).orders == orders


@pytest.mark.parametrize(
    ("response", "judged", "failure"),
    [
        (Response(id="a", text="x"), verdict((8, 4), (8, 4)), "none"),
        (Response(id="a", text=None, failure="empty"), None, "no response of the student"),
        (Response(id="a", text="x", finished=False), None, "response of the student cut"),
        (Response(id="a", text="x"), verdict((8, 4), None), "reply of the judge"),
    ],
)
def test_answer_names_its_failure(response: Response, judged: Verdict | None, failure: str) -> None:
    assert Answer(0, 0, "verdicts", response=response, verdict=judged).failure[0] == failure
