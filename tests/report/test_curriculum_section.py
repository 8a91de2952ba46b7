"""Table of the curriculum: rates of the steps, metrics of the rounds, and what each student was judged on."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tapir_exp.core.store import Artifact
from tapir_exp.report.curriculum_section import curriculum_rows
from tapir_exp.report.run_page import build_page
from tapir_exp.report.run_view import RunView
from tapir_exp.report.templates import render


@pytest.fixture
def run(fake_run: Callable[..., Path]) -> RunView:
    return RunView.load(fake_run())


def with_fresh_gaps(run: RunView, **figures: Any) -> RunView:
    """Return the run with verdicts ahead of each fit, and with further metrics in each round."""
    fresh: Mapping[str, Artifact] = {
        f"fresh_verdicts-{n}": run.artifacts["verdicts-0"] for n in range(1, len(run.rounds))
    }
    metrics = tuple({**row, **figures} for row in run.metrics)
    return replace(run, artifacts={**run.artifacts, **fresh}, metrics=metrics)


def test_curriculum_rows_hold_rates_and_metrics_of_each_round(run: RunView) -> None:
    rows = curriculum_rows(run)
    for row, of_round, metrics in zip(rows, run.rounds, run.metrics, strict=True):
        rates = [step.learning_rate for step in of_round.steps]
        assert (row.rate_start, row.rate_peak, row.rate_end) == (rates[0], max(rates), rates[-1])
        assert (row.alpha, row.new, row.drawn) == (
            of_round.alpha,
            metrics.get("mix/rows_new"),
            metrics.get("mix/rows_drawn"),
        )
    assert rows[1].new
    assert rows[1].written == len(run.rounds[1].expansions)
    assert [row.judged for row in rows] == ["seeds", *["its mix"] * (len(rows) - 2), ""]


def test_curriculum_rows_name_the_rows_and_weights_that_were_judged(run: RunView) -> None:
    settings = {**run.config, "sft": {"judged_student": "average"}}
    rows = curriculum_rows(replace(with_fresh_gaps(run), config=settings))
    assert [row.judged for row in rows][:2] == ["seeds, new rows", "its mix, new rows, average"]
    assert rows[-1].judged == ""


def test_curriculum_rows_are_empty_without_rounds(run: RunView) -> None:
    manifest = run.manifest.model_copy(update={"alphas": ()})
    assert curriculum_rows(replace(run, manifest=manifest)) == []


def test_page_shows_both_gaps_and_the_price_of_hard_rows(run: RunView) -> None:
    shares = {"fresh_gap/hard_share": 0.614, "trained_gap/hard_share": 0.123}
    price = {"expansion/easy": 34, "expansion/calls_per_hard_row": 0.987}
    page = render("run_page.html.jinja", page=build_page(with_fresh_gaps(run, **shares, **price)))
    assert all(text in page for text in ("61.4 %", "12.3 %", "0.99", "before it is trained on them"))
    plain = render("run_page.html.jinja", page=build_page(run))
    assert "again on its training rows" in plain
    assert "calls per<br>hard row" not in plain
