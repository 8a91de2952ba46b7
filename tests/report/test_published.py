"""Tests of the tables of published figures."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from assets import asset

from tapir_exp.core.errors import StoreError
from tapir_exp.report.published import PublishedFigure, Status, load_table, load_tables


def test_load_tables_reads_every_table_with_statuses() -> None:
    tables = load_tables()
    assert set(tables) == {"alpaca_eval_2", "qwen1_5_alpaca_eval_2", "mt_bench", "ifeval", "ablations", "lab"}
    figures = {row.label: row.figures for row in tables["alpaca_eval_2"].rows}
    assert figures["LLaMA2-7B with TAPIR"]["win_rate"] == PublishedFigure(value=7.8, status=Status.PRIMARY)
    assert figures["LLaMA2-7B with TAPIR, single round"]["win_rate"].status is Status.DERIVED
    assert figures["LLaMA2-7B with TAPIR"]["length_controlled_winrate"].status is Status.UNKNOWN


def test_alpaca_eval_figures_match_the_leaderboard() -> None:
    with asset("alpacaeval/published_leaderboard_ae2.csv").open(newline="") as lines:
        known = {
            (round(float(row["win_rate"]), 2), round(float(row["length_controlled_winrate"]), 2))
            for row in csv.DictReader(lines)
        }
    tables = load_tables()
    rows = [row for name in ("alpaca_eval_2", "qwen1_5_alpaca_eval_2") for row in tables[name].rows]
    pairs = [tuple(figure.value for figure in row.figures.values()) for row in rows]
    checked = [pair for pair in pairs if None not in pair]
    assert len(checked) == 17
    assert [pair for pair in checked if pair not in known] == []


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"figures": {"win_rate": {"value": 7.8, "status": "unknown"}}}, "an unknown figure has no value"),
        ({"figures": {"win_rate": {"value": None, "status": "P"}}}, "an unknown figure has no value"),
        ({"figures": {"speed": {"value": 1, "status": "P"}}}, "have no column"),
        ({"figures": {}, "colour": "red"}, "colour"),
    ],
)
def test_load_table_with_a_mistake_raises(change: dict[str, Any], wrong: str, tmp_path: Path) -> None:
    row = {"label": "x", **change}
    table = {"title": "t", "suite": "s", "judge": None, "columns": {"win_rate": {"title": "w"}}, "rows": [row]}
    (tmp_path / "t.yaml").write_text(json.dumps(table))
    with pytest.raises(StoreError, match=wrong):
        load_table(tmp_path / "t.yaml")
