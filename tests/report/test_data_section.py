"""Data section of the run page: counts of the stages, and benchmark leaks in full."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapir_exp.core.records import DroppedRow, DropReason
from tapir_exp.core.store import DROPPED, write_rows
from tapir_exp.report.data_section import MAX_LEAKS, data_origins
from tapir_exp.report.run_page import build_page
from tapir_exp.report.run_view import RunView
from tapir_exp.report.templates import render

MakeRun = Callable[..., Path]
SEEDS = {"rows": 90, "read": 1203, "unusable": 4, "repeated": 11, "near_duplicates": 7, "undrawn": 1079}
EXPANSIONS = {
    "rows": 38,
    "calls": 16,
    "proposed": 61,
    "repeated": 5,
    "unlabelled": 1,
    "off_type": 9,
    "unrated": 0,
    "unlike": 6,
    "surplus": 2,
    "kept_per_call": 2.375,
    "off_type_share": 9 / 55,
}


def leak(number: int) -> DroppedRow:
    detail = f"100% of question.jsonl, row {number}: <b>how many</b>"
    return DroppedRow(source="seeds.jsonl", row=number, reason=DropReason.CONTAMINATED, detail=detail)


def counted(run_dir: Path, tmp_path: Path, contaminated: int | None) -> RunView:
    """Load a run with the figures above; `contaminated` seeds are leaks, or None if nothing was checked."""
    run = RunView.load(run_dir)
    other = DroppedRow(source="seeds.jsonl", row=99, reason=DropReason.REPEATED, detail="the instruction of row 1")
    write_rows(tmp_path / DROPPED, [other, *(leak(number) for number in range(1, (contaminated or 0) + 1))])
    seeds = replace(run.artifacts["seeds"], path=tmp_path, figures={**SEEDS, "contaminated": contaminated})
    expanded = {**EXPANSIONS, "contaminated": None if contaminated is None else 0}
    first = replace(run.rounds[1], expansion_figures=expanded)
    return replace(
        run, artifacts={**run.artifacts, "seeds": seeds}, rounds=(run.rounds[0], first), metrics=run.metrics[:2]
    )


def page_of(run: RunView) -> str:
    return render("run_page.html.jinja", page=build_page(run))


def section(html: str) -> str:
    """Return the data section with one line per table."""
    return html.partition('<section id="data">')[2].partition("</section>")[0].replace("\n", "")


def test_data_section_shows_the_counts_of_the_stages(fake_run: MakeRun, tmp_path: Path) -> None:
    text = section(page_of(counted(fake_run(), tmp_path, contaminated=2)))
    row = "<td>1\u202f203</td><td>4</td><td>11</td><td>7</td><td>2</td><td>1\u202f079</td>"
    assert row in text
    assert "<td>16</td><td>61</td><td>5</td><td>0</td><td>1</td>" in text
    assert "(16.4 %)" in text
    assert '<td class="main">38</td><td>2.38</td>' in text


def test_data_section_lists_leaks_escaped(fake_run: MakeRun, tmp_path: Path) -> None:
    run = counted(fake_run(), tmp_path, contaminated=MAX_LEAKS + 3)
    origins = data_origins(run)
    assert [leak.row for leak in origins.leaks] == list(range(1, MAX_LEAKS + 1))
    assert origins.more_leaks == 3
    text = section(page_of(run))
    assert "seeds.jsonl, 1: 100% of question.jsonl, row 1: &lt;b&gt;how many" in text
    assert "And 3 more." in text


@pytest.mark.parametrize(("contaminated", "shown"), [(None, True), (0, False)])
def test_data_section_without_a_check_reports_no_zero(
    fake_run: MakeRun, tmp_path: Path, contaminated: Any, shown: bool
) -> None:
    text = section(page_of(counted(fake_run(), tmp_path, contaminated)))
    assert ("not checked" in text) is shown
    assert "Leaks:" not in text


@pytest.mark.parametrize(
    ("figures", "shown"),
    [
        ({"rows": 90, "unlabelled": 31, "mean_confidence": 0.42, "confidence": {"warning": "out of its depth"}}, True),
        ({"rows": 90, "unlabelled": 0, "mean_confidence": 0.7}, False),
        ({"rows": 90, "unlabelled": 0}, False),
    ],
)
def test_data_section_warns_of_low_confidence(
    fake_run: MakeRun, tmp_path: Path, figures: dict[str, Any], shown: bool
) -> None:
    run = counted(fake_run(), tmp_path, contaminated=0)
    labels = replace(run.artifacts["task_labels"], figures=figures)
    text = section(page_of(replace(run, artifacts={**run.artifacts, "task_labels": labels})))
    assert ("<strong>out of its depth</strong>" in text) is shown
    assert ("mean confidence" in text) is ("mean_confidence" in figures)
    assert ("31 of 90 rows got no type" in text) is shown


def test_data_section_is_absent_without_seed_counts(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    assert 'id="data"' in page_of(run)
    seeds = replace(run.artifacts["seeds"], figures={"rows": 240})
    assert 'id="data"' not in page_of(replace(run, artifacts={**run.artifacts, "seeds": seeds}))
