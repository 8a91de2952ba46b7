"""The progress of a sweep is read from the events of its jobs, wherever they run."""

import io
import json
from pathlib import Path

import pytest
import yaml

from tapir_exp.commands.sweeps import progress
from tapir_exp.commands.sweeps.progress import SweepProgress, _duration, short_label
from tapir_exp.core import console as console_module
from tapir_exp.core.console import Terminal
from tapir_exp.core.events import EVENTS, EventStream, Kind
from tapir_exp.report.sweep.plan_file import SweepPlan

JOBS = [["seed=1"], ["seed=2"], ["seed=3"]]


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    out = io.StringIO()
    terminal = Terminal(out)
    for module in (console_module, progress):
        monkeypatch.setattr(module, "console", terminal)
    return out


def start(sweep_dir: Path, number: int) -> EventStream:
    """Write the files that Hydra and a run write at their start."""
    hydra = sweep_dir / str(number) / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "overrides.yaml").write_text(yaml.safe_dump(JOBS[number]))
    stream = EventStream(sweep_dir / str(number) / EVENTS)
    stream.record(Kind.RUN_STARTED)
    return stream


def test_remote_jobs_show_their_stages_and_ends_with_labels(tmp_path: Path, output: io.StringIO) -> None:
    SweepPlan(JOBS).write(tmp_path)
    earlier = start(tmp_path, 0)
    earlier.record(Kind.RUN_FINISHED, key="k", figure="accuracy", value=0.5)
    progress = SweepProgress(tmp_path, remote=True)
    job = start(tmp_path, 1)
    job.record(Kind.STAGE_FINISHED, stage="seeds", seconds=1.5, figures={"rows": 60})
    (tmp_path / "1" / EVENTS).open("a").write(json.dumps({"event": "stage_reused", "stage": "half a li"})[:-5])
    progress.update()
    (tmp_path / "1" / EVENTS).write_bytes((tmp_path / "1" / EVENTS).read_bytes().rpartition(b"\n")[0] + b"\n")
    job.record(Kind.STAGE_REUSED, stage="plan-1", seconds=1.5, figures={})
    job.record(Kind.RUN_FAILED, reason="no key")
    progress.update()
    lines = output.getvalue().splitlines()
    assert [" ".join(line.split()) for line in lines[:3]] == [
        "[seed=2] seeds rows 60 1.5 s",
        "[seed=2] plan-1 reused",
        "seed=2: failed no key",
    ]
    assert lines[3].startswith("2 of 3 jobs ended; about ")


def test_local_jobs_show_their_stages_themselves(tmp_path: Path, output: io.StringIO) -> None:
    SweepPlan(JOBS).write(tmp_path)
    progress = SweepProgress(tmp_path, remote=False)
    progress.start()
    job = start(tmp_path, 0)
    job.record(Kind.STAGE_FINISHED, stage="seeds", seconds=1.5, figures={})
    job.record(Kind.RUN_FINISHED, key="k", figure="accuracy", value=0.5)
    progress.stop()
    (line,) = output.getvalue().splitlines()
    assert line.startswith("1 of 3 jobs ended")


@pytest.mark.parametrize(("seconds", "text"), [(0, "1 s"), (89, "89 s"), (600, "10 min"), (9000, "2.5 h")])
def test_duration_is_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


@pytest.mark.parametrize(
    ("label", "short"),
    [
        ("arm=tapir seed=1", "arm=tapir seed=1"),
        ("curriculum.delta=2 curriculum.alpha=0.55", "delta=2 alpha=0.55"),
        ("curriculum.delta=2 curriculum.alpha=0.55 judge@evals.mt_bench.judge=gpt_4o", "job 7"),
        ("teacher=" + "长" * 40, "job 7"),
    ],
)
def test_label_of_a_line_leaves_room_for_its_stage(label: str, short: str) -> None:
    assert short_label(label, 7) == short
