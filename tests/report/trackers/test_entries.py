"""What trackers get of the events of a job."""

import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tapir_exp.core.records import JudgeReply, PresentationOrder, Quota, Subset, TrainingStep, Verdict
from tapir_exp.core.store import write_rows
from tapir_exp.core.task_types import TaskType
from tapir_exp.report.trackers.base import ArtifactReference, Entry, Histogram, JobInfo, Point, Table
from tapir_exp.report.trackers.entries import EntryReader, News, split_stage

SECRET = "sk-" + "entry000" * 4


def event(kind: str, time: float = 0.0, **fields: Any) -> dict[str, Any]:
    return {"time": time, "event": kind, **fields}


def step(number: int, time: float, tokens: int) -> dict[str, Any]:
    return event("training_step", time, step=number, steps=4, tokens=tokens, loss=1 / number, learning_rate=0.1)


def finished(stage: str, time: float = 0.0, key: str = "k", **figures: Any) -> dict[str, Any]:
    return event("stage_finished", time, stage=stage, key=key, seconds=2.5, figures=figures)


@pytest.fixture
def reader(tmp_path: Path) -> EntryReader:
    job = JobInfo("id", "name", None, "train", (), {}, tmp_path, tmp_path / "store", tmp_path)
    return EntryReader(job, 10)


def news_of(reader: EntryReader, *events: dict[str, Any]) -> list[News]:
    return [news for happened in events for news in reader.take(happened)]


def entries_of(reader: EntryReader, *events: dict[str, Any]) -> list[Entry]:
    return [entry for news in news_of(reader, *events) for entry in news.make()]


def identities(news: Sequence[News]) -> list[Hashable]:
    return [item.identity for item in news]


def test_steps_have_the_axis_of_their_fit(reader: EntryReader) -> None:
    events = [event("stage_started", stage="student-0"), step(1, 10.0, 100), step(2, 12.0, 500)]
    events += [event("stage_started", 20.0, stage="judged_student-1"), step(1, 30.0, 50)]
    points = [entry for entry in entries_of(reader, *events) if isinstance(entry, Point)]
    assert [(point.axis, point.position, point.time) for point in points] == [
        ("fit/S_0/step", 1, 10.0),
        ("fit/S_0/step", 2, 12.0),
        ("fit/S_1_judged/step", 1, 30.0),
    ]
    assert points[1].values["fit/S_0/loss"] == 0.5
    speeds = [value for point in points for name, value in point.values.items() if "per_second" in name]
    assert speeds == [200.0]  # the first step of a fit has no predecessor


def test_repeated_stage_keeps_its_number_and_identity(reader: EntryReader) -> None:
    first = news_of(reader, finished("plan-1", rows=3), finished("plan-2", key="l"))
    again = news_of(reader, {**finished("plan-1"), "event": "stage_reused"}, finished("plan-1", key="other"))
    points = [item.make()[0] for item in (*first, *again)]
    assert [point.position for point in points if isinstance(point, Point)] == [0, 1, 0, 2]
    assert identities(again)[0] == identities(first)[0]
    assert identities(again)[1] not in identities(first)


def test_reason_of_a_failure_is_without_secrets(reader: EntryReader) -> None:
    (point,) = entries_of(reader, event("stage_failed", stage="seeds", reason=f"refused {SECRET}"))
    assert isinstance(point, Point)
    assert point.values["stage/reason"] == "refused (value not shown)"


def test_steps_of_a_reused_fit_are_read_from_the_store(reader: EntryReader) -> None:
    steps = [
        TrainingStep(
            step=n, tokens=9 * n, loss=n / 7, loss_hard=None, loss_rest=None, learning_rate=0.1, gradient_norm=1
        )
        for n in range(1, 5)
    ]
    directory = reader.job.store / "student" / "k"
    directory.mkdir(parents=True)
    write_rows(directory / "training.jsonl", steps)
    logged = identities(news_of(reader, event("stage_started", stage="student-1"), step(1, 1.0, 9), step(2, 2.0, 18)))
    missing = [news for news in news_of(reader, finished("student-1", 5.0)) if news.identity not in logged]
    points = [entry for news in missing for entry in news.make() if isinstance(entry, Point)]
    assert [point.values.get("fit/S_1/loss") for point in points if point.axis == "fit/S_1/step"] == [3 / 7, 4 / 7]


def test_spend_adds_the_calls_of_the_stage_in_progress(reader: EntryReader) -> None:
    events = [event("run_started", 100.0), event("spend", 103.0, calls=4, cached=1, tokens=50, usd=0.5)]
    events += [event("calls", 107.9, stage="verdicts-0", calls=2, cached=0, usd=0.25)]
    events += [event("calls", 109.0, stage="verdicts-0", calls=2, cached=0, usd=None)]
    points = [entry for entry in entries_of(reader, *events) if isinstance(entry, Point)]
    assert [(point.position, point.values["spend/calls"], point.values["spend/usd"]) for point in points] == [
        (3, 4, 0.5),
        (7, 6, 0.75),
        (9, 6, None),
    ]


@pytest.mark.parametrize(("stage", "position"), [("mt-suite-2", 2), ("mt-suite", 0)])
def test_result_of_an_evaluation_is_a_figure_of_its_round(reader: EntryReader, stage: str, position: int) -> None:
    event = finished(stage, 4.0, rows=80, average=6.5, without=None, benchmark="text")
    point = entries_of(reader, event)[-1]
    assert point == Point("round", position, {"evaluation/mt/rows": 80.0, "evaluation/mt/average": 6.5}, 4.0)


def test_nested_figures_are_values_by_their_path(reader: EntryReader) -> None:
    figures = {"head": {"accuracy": {"mean": 0.5, "low": 0.4}, "rows": 7, "name": "x", "none": None}, "ece": 0.1}
    (point,) = entries_of(reader, event("figures", 3.0, figures=figures))
    values = {"head/accuracy/mean": 0.5, "head/accuracy/low": 0.4, "head/rows": 7.0, "ece": 0.1}
    assert point == Point("round", 0, values, 3.0)


def test_artifact_names_those_that_it_was_made_from(reader: EntryReader) -> None:
    for stage, key, recipe in (("seeds", "a1", {}), ("plan", "b2", {}), ("train_mix", "c3", {"pool": ["a1", "zz"]})):
        directory = reader.job.store / stage / key
        directory.mkdir(parents=True)
        (directory / "artifact.json").write_text(json.dumps({"recipe": recipe}))
    events = [finished("seeds", key="a1", rows=7), finished("plan-1", key="b2"), finished("train_mix-1", key="c3")]
    found = [entry for entry in entries_of(reader, *events) if isinstance(entry, ArtifactReference)]
    assert [(entry.name, entry.stage, entry.metadata["made_from"]) for entry in found] == [
        ("seeds-a1", "seeds", []),
        ("train_mix-c3", "train_mix", ["seeds-a1"]),
    ]
    repeated = news_of(reader, finished("seeds", key="a1"))
    assert ("artifact", "a1") in identities(repeated)  # so that a shared artifact is logged once


def test_round_has_metrics_histogram_and_task_mix(reader: EntryReader) -> None:
    reply = JudgeReply(order=PresentationOrder.TEACHER_FIRST, teacher=9, student=4, raw="")
    rows = {
        "verdicts": [Verdict(id="x", replies=(reply,), teacher=9, student=4)],
        "train_mix": [],
        "task_labels": [],
        "plan": [Quota(task=TaskType.MATH, subset=Subset.HARD, wanted=1, drawn=0, ordered=1, filled=0)],
    }
    for stage, content in rows.items():
        (reader.job.store / stage / "k").mkdir(parents=True)
        write_rows(reader.job.store / stage / "k" / "rows.jsonl", content)
    metrics = {"round": 1, "curriculum/alpha": 0.3, "gap/mean": None, "train/final_loss": 0.5}
    events = [finished(name) for name in ("task_labels", "plan-1", "train_mix-1", "verdicts-0", "verdicts-1")]
    events.append(event("round_finished", 9.0, round=1, metrics=metrics))
    point, histogram, curriculum, task_mix = entries_of(reader, *events)[-4:]
    assert isinstance(point, Point)
    assert (point.axis, point.position, point.time) == ("round", 1, 9.0)
    assert {"round": 1, **point.values} == metrics
    assert isinstance(histogram, Histogram)
    assert (histogram.name, sum(histogram.counts), histogram.counts[14]) == ("gap/histogram", 1, 1)  # a gap of 5
    assert isinstance(curriculum, Table)
    assert isinstance(task_mix, Table)
    assert task_mix.rows == [["Math", 0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("values", "counts"), [([-9.5, -9, 9.5], [2, *[0] * 17, 1]), ([0.4, 0.5, 0.6], [*[0] * 9, 1, 2, *[0] * 8])]
)
def test_histogram_counts_each_value_once(values: list[float], counts: list[int]) -> None:
    edges = tuple(point - 0.5 for point in range(-9, 11))
    assert Histogram("gap", 0, values, edges, 0.0).counts == counts


@pytest.mark.parametrize(
    ("name", "parts"), [("student-2", ("student", 2)), ("seeds", ("seeds", None)), ("a-b", ("a-b", None))]
)
def test_stage_is_split_from_its_round(name: str, parts: tuple[str, int | None]) -> None:
    assert split_stage(name) == parts
