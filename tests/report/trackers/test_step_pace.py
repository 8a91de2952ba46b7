"""Steps of a fit that follow one another quickly are written together, all else at once."""

import sys
from collections import namedtuple
from types import ModuleType
from typing import Any

import pytest

from tapir_exp.report.trackers import base
from tapir_exp.report.trackers.base import STEPS_HELD_S, Point, StepPace
from tapir_exp.report.trackers.mlflow import MlflowTracker


def step(number: int) -> Point:
    return Point("fit/S_1/step", number, {"fit/S_1/loss": float(number)}, 10.0 + number)


STAGE = Point("stage/number", 0, {"stage/name": "seeds", "stage/seconds": 1.5}, 20.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(base.clock, "monotonic", lambda: now[0])
    return now


def test_lone_step_and_everything_else_is_due_at_once(clock: list[float]) -> None:
    pace = StepPace()
    assert [pace.is_due(step(1)), pace.is_due(step(2)), pace.is_due(STAGE), pace.is_due(step(3))] == [
        *(True, False, True, False)
    ]
    clock[0] += STEPS_HELD_S
    assert pace.is_due(step(4))


def test_mlflow_gets_held_steps_with_the_next_entry_or_the_end(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    class Client:
        def log_batch(self, run: str, **batch: list[Any]) -> None:
            calls.append(batch)

        def finalize(self, status: str) -> None:
            calls.append({"status": status})

    entities = ModuleType("mlflow.entities")
    entities.Metric = namedtuple("Metric", "key value timestamp step")  # type: ignore[attr-defined]
    entities.RunTag = namedtuple("RunTag", "key value")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    tracker = object.__new__(MlflowTracker)
    tracker._logger, tracker._client, tracker._run = Client(), Client(), "run"  # type: ignore[assignment]
    tracker._pace, tracker._metrics = StepPace(), []
    for entry in (step(1), step(2), step(3), STAGE, step(4)):
        tracker.log(entry)
    assert [[metric.step for metric in call["metrics"]] for call in calls if "metrics" in call] == [[1], [2, 3, 0]]
    assert calls[-1] == {"tags": [("stage/name", "seeds")]}
    tracker.finish(succeeded=True)
    assert calls[-2:] == [{"metrics": [("fit/S_1/loss", 4.0, 14_000, 4)]}, {"status": "success"}]
