"""Charts of a run page: what they show, and what they leave empty."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tapir_exp.core.records import Label
from tapir_exp.core.task_types import TaskType
from tapir_exp.report.run_charts import draw_charts
from tapir_exp.report.run_view import RunView

MakeRun = Callable[..., Path]


def test_charts_have_a_panel_per_student_and_task_type(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    charts = draw_charts(run)
    assert len(charts.gaps) == 3  # the last student is not judged
    assert len(charts.benchmark) == 1 + len(run.tasks)
    assert all("<svg" in svg for svg in (charts.hard, charts.mix, charts.mix_narrow, charts.loss, charts.loss_narrow))


def test_charts_without_rounds_have_no_gaps_and_no_mix(fake_run: MakeRun) -> None:
    charts = draw_charts(RunView.load(fake_run(rounds=0, arm="vanilla_sft", benchmark=False)))
    assert (charts.gaps, charts.hard, charts.mix, charts.benchmark) == ([], "", "", [])
    assert "<svg" in charts.loss


def test_mix_chart_merges_types_that_are_rare_everywhere(fake_run: MakeRun) -> None:
    run = RunView.load(fake_run())
    rare = [TaskType.LAW, TaskType.MEDICINE]
    labels = {str(task): Label(id=str(task), task=task, raw="") for task in rare}
    chart = draw_charts(replace(run, labels={**run.labels, **labels})).mix
    assert "2 rare types" in chart
    assert not any(f">{task}<" in chart for task in rare)
