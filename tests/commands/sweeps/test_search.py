"""A search: it continues towards its total after any end, and survives failed trials, NaN and another space."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from tapir_exp.commands.sweeps import search as search_module
from tapir_exp.commands.sweeps.search import Settings, run_search
from tapir_exp.commands.sweeps.search_trial import JOURNAL, RoundReader, reporting_rounds
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.events import EVENTS, EventStream, Kind, Pruned
from tapir_exp.report.sweep.plan_file import SweepPlan
from tapir_exp.report.sweep.search_file import SearchFile

SPACE = ["seed=1", "delta=range(0,5)", "alpha=interval(0,1)"]
Job = Callable[[dict[str, str]], Any]


@pytest.fixture(autouse=True)
def fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the importance, since Optuna imports scikit-learn for it."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(search_module, "_importance", lambda study: {})


class Launcher:
    """Writes the events that each job would write, without running it."""

    def __init__(self, directory: Path, job: Job) -> None:
        self.directory, self.job = directory, job
        self.jobs: list[str] = []

    def launch(self, overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        return [self._run(list(lines)) for lines in overrides]

    def _run(self, lines: list[str]) -> JobReturn:
        self.jobs.append(" ".join(lines))
        directory = self.directory / "_".join(lines)
        (directory / ".hydra").mkdir(parents=True, exist_ok=True)
        (directory / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(lines))
        stream = EventStream(directory / EVENTS)
        stream.record(Kind.RUN_STARTED)
        kind, fields = self.job(dict(line.split("=") for line in lines))
        stream.record(kind, **fields)
        return JobReturn(overrides=lines, status=JobStatus.COMPLETED, _return_value=fields.get("value"))


def finished(value: float, figure: str = "accuracy") -> tuple[Kind, dict[str, Any]]:
    return Kind.RUN_FINISHED, {"key": "k", "figure": figure, "value": value, "usd": 0.5, "calls": 3}


def good(settings: dict[str, str]) -> tuple[Kind, dict[str, Any]]:
    return finished(1 - abs(float(settings["alpha"]) - 0.5) - abs(int(settings["delta"]) - 2) / 10)


def search(directory: Path, job: Job = good, trials: int = 6, space: Sequence[str] = SPACE, **more: Any) -> Launcher:
    launcher = Launcher(directory, job)
    settings = {"trials_at_once": 1, "random_trials": 3, "seed": 0, "prune": True, "prune_after": 5, **more}
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(directory)}}})
    run_search(launcher, space, config, Settings(trials=trials, **settings))  # type: ignore[arg-type]
    return launcher


def loaded(directory: Path) -> SearchFile:
    found = SearchFile.load(directory)
    assert found is not None
    return found


def test_search_stops_at_its_total_and_continues_to_a_larger_one(tmp_path: Path) -> None:
    first = search(tmp_path, trials=4)
    assert len(first.jobs) == 4
    assert search(tmp_path, trials=4).jobs == []
    assert len(search(tmp_path, trials=9).jobs) == 5
    result = loaded(tmp_path)
    assert result.count("complete") == 9
    assert result.best is not None
    assert result.best.value == max(trial.value for trial in result.trials if trial.value is not None)
    assert len(SweepPlan.load(tmp_path).jobs) == 9


@pytest.mark.slow
def test_setting_that_decides_the_result_has_the_largest_importance(tmp_path: Path) -> None:
    search(tmp_path, lambda settings: finished(float(settings["alpha"])), trials=12)
    importance = loaded(tmp_path).importance
    assert importance["alpha"] > importance["delta"]


def test_stopped_search_runs_the_stopped_trial_again_and_ends_alike(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", trials=8)

    def stop(settings: dict[str, str]) -> Any:
        if len(list((tmp_path / "stopped").glob("*/.hydra"))) == 4:
            raise KeyboardInterrupt
        return good(settings)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "stopped", stop, trials=8)
    resumed = search(tmp_path / "stopped", trials=8)
    assert resumed.jobs == whole.jobs[3:]
    table = [sorted(trial.job for trial in loaded(tmp_path / name).complete) for name in ("whole", "stopped")]
    assert table[0] == table[1]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (finished(float("nan")), "its accuracy is nan"),
        ((Kind.RUN_FINISHED, {"key": "k"}), "the job has no figure"),
        ((Kind.RUN_FAILED, {"reason": "no key"}), "no key"),
        ((Kind.RUN_STOPPED, {}), "the job is stopped"),
        (finished(3.0, "loss"), "its figure is loss, that of the other trials is accuracy"),
    ],
    ids=["NaN", "no figure", "failed", "stopped", "another figure"],
)
def test_trial_without_a_result_has_a_reason_and_runs_again(tmp_path: Path, result: Any, reason: str) -> None:
    def third(settings: dict[str, str]) -> Any:
        return result if len(list(tmp_path.glob("*/.hydra"))) == 3 else good(settings)

    failed = search(tmp_path, third, trials=5)
    assert len(failed.jobs) == 5
    assert [trial.reason[: len(reason)] for trial in loaded(tmp_path).trials if trial.state == "fail"] == [reason]
    assert json.loads((tmp_path / "search.json").read_text())  # no NaN, which is no JSON
    assert search(tmp_path, trials=5).jobs == [failed.jobs[2]]
    assert loaded(tmp_path).count("complete") == 5


def test_pruned_trial_counts_and_is_not_run_again(tmp_path: Path) -> None:
    def second(settings: dict[str, str]) -> Any:
        pruned = (Kind.RUN_PRUNED, {"figure": "accuracy", "value": 0.1, "usd": 0.2, "calls": 1})
        return pruned if len(list(tmp_path.glob("*/.hydra"))) == 2 else good(settings)

    assert len(search(tmp_path, second, trials=4).jobs) == 4
    assert search(tmp_path, trials=4).jobs == []
    (trial,) = [trial for trial in loaded(tmp_path).trials if trial.state == "pruned"]
    assert (trial.value, trial.usd, trial.calls) == (0.1, 0.2, 1)


def test_equal_trials_of_one_launch_run_once(tmp_path: Path) -> None:
    launcher = search(tmp_path, lambda _: finished(0.5), trials=6, space=["a=1,2"], trials_at_once=6)
    assert sorted(launcher.jobs) == ["a=1", "a=2"]
    assert loaded(tmp_path).count("complete") == 6


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (["delta=range(0,5)"], "alpha: expected numbers from 0 to 1, as in the search of"),
        ([*SPACE, "beta=1,2"], "beta: expected a fixed value, as in the search of"),
        (["delta=range(0,5)", "alpha=interval(0,2)"], "got numbers from 0 to 2. Choose another sweep.name"),
    ],
    ids=["less", "more", "wider"],
)
def test_search_of_another_space_is_refused(tmp_path: Path, space: list[str], expected: str) -> None:
    search(tmp_path, trials=1)
    with pytest.raises(ConfigError, match="one mistake") as caught:
        search(tmp_path, space=space)
    assert expected in caught.value.problems[0]


def test_journal_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text('{"a": 1}\n{"b": 2}\n')
    with pytest.raises(ConfigError, match="cannot be read"):
        search(tmp_path)


def test_smaller_loss_is_better(tmp_path: Path) -> None:
    search(tmp_path, lambda settings: finished(float(settings["alpha"]), "loss"), trials=8)
    result = loaded(tmp_path)
    assert result.best is not None
    assert result.best.value == min(trial.value or 1.0 for trial in result.trials)
    values = [trial.value or 0.0 for trial in result.front]
    assert values == sorted(values, reverse=True)


def test_trial_is_pruned_by_the_rounds_of_the_trials_before_it(tmp_path: Path) -> None:
    values = iter([0.5, 0.6, 0.7, 0.1, 0.65])

    def job(settings: dict[str, str]) -> Any:
        stream, value = EventStream(), next(values)
        lines = [f"{key}={text}" for key, text in settings.items()]
        try:
            with stream.active(), reporting_rounds(tmp_path, lines, stream):
                for number in range(3):
                    fields = {"round": number, "figure": "accuracy", "value": value, "last": number == 2}
                    stream.record(Kind.ROUND_FINISHED, **fields)
        except Pruned as pruned:
            return Kind.RUN_PRUNED, {"figure": pruned.figure, "value": pruned.value}
        return finished(value)

    search(tmp_path, job, trials=5, prune_after=2)
    assert [trial.state for trial in loaded(tmp_path).trials] == [*["complete"] * 3, "pruned", "complete"]
    search(tmp_path, lambda _: finished(0.0), trials=6, prune=False)
    assert loaded(tmp_path).trials[-1].state == "complete"


def test_half_a_line_at_the_end_of_the_journal_is_dropped(tmp_path: Path) -> None:
    search(tmp_path, trials=2)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"op_code": 4, "trial')
    assert len(search(tmp_path, trials=3).jobs) == 1
    assert len(search(tmp_path, trials=4).jobs) == 1


class Trial:
    """Trial of Optuna that is pruned as soon as it reports less than 0.2."""

    def __init__(self) -> None:
        self.reports: dict[int, float] = {}

    def report(self, value: float, step: int) -> None:
        self.reports[step] = value

    def should_prune(self) -> bool:
        return list(self.reports.values())[-1] < 0.2


def test_round_that_is_worse_than_others_ends_the_run(tmp_path: Path) -> None:
    trial = Trial()
    stream = EventStream(tmp_path / EVENTS)
    told: list[Any] = []
    stream.subscribe(RoundReader(trial))
    stream.subscribe(told.append)
    for number, value in enumerate([0.1, 0.5, float("nan")]):  # S_0 decides nothing, and NaN is no report
        stream.record(Kind.ROUND_FINISHED, round=number, figure="accuracy", value=value, last=False)
    with pytest.raises(Pruned, match="pruned after round 3"):
        stream.record(Kind.ROUND_FINISHED, round=3, figure="accuracy", value=0.1, last=False)
    assert trial.reports == {1: 0.5, 3: 0.1}
    assert len(told) == 4  # the other readers get the event, too
    stream.record(Kind.ROUND_FINISHED, round=4, figure="accuracy", value=0.1, last=True)  # nothing is left to save
