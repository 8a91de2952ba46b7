"""A real sweep of the lab: a job that fails in the middle, a stop, and a resume to the same table."""

import csv
import re
import signal
import time
from pathlib import Path

import pytest
from preloaded import Finished, PreloadedProcess, run_preloaded

from tapir_exp.core.events import EVENTS, Kind, read_events
from tapir_exp.report.sweep.plan_file import PLAN

pytestmark = pytest.mark.slow

# No row has a response within two tokens, which only the fit can know.
SWEEP = ["-m", "debug=tiny", "logger=disabled", "student.max_length=96,2,128", "sweep.name=mine"]
COMPARED = ("comparison.csv", "comparison.md", "comparison.svg")


def states(stderr: str) -> list[str]:
    """Return the states in the table that ends a sweep."""
    table = stderr.rpartition("\njob  ")[2].splitlines()[1:4]
    return [re.split(r"  +", line)[1] for line in table]


def run(outputs: Path, *more: str) -> Finished:
    return run_preloaded([*SWEEP, f"outputs={outputs}", *more], cwd=outputs.parent)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the sweep without a stop, and return its outputs."""
    outputs = tmp_path_factory.mktemp("whole") / "outputs"
    result = run(outputs)
    assert result.returncode == 1, result.stderr
    assert states(result.stderr) == ["finished", "failed", "finished"]
    assert "1 of 3 jobs did not finish: student.max_length=2 (failed: " in result.stderr
    return outputs


def test_stopped_sweep_resumes_to_the_same_table(whole: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    sweep = outputs / "sweeps" / "mine"
    log = tmp_path / "log"
    process = PreloadedProcess([*SWEEP, f"outputs={outputs}"], stderr=log, cwd=tmp_path)
    deadline = time.monotonic() + 600
    while len(list(sweep.glob(f"*128*/{EVENTS}"))) < 1:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (sweep / "index.html").is_file()
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert states(log.read_text()) == ["finished", "failed", "stopped"]
    resumed = run(outputs)
    assert resumed.returncode == 1
    assert states(resumed.stderr) == ["finished", "failed", "finished"]
    for name in COMPARED:
        assert (sweep / name).read_bytes() == (whole / "sweeps" / "mine" / name).read_bytes()


def test_finished_jobs_of_a_sweep_are_skipped_by_other_shells(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.glob("sweeps/mine/*96*/*.*")}
    result = run(whole, "logger.project=other")
    assert states(result.stderr) == ["finished", "failed", "finished"]
    assert result.stderr.count("finished already") == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_files_of_a_sweep_have_its_settings_and_its_jobs(whole: Path) -> None:
    sweep = whole / "sweeps" / "mine"
    rows = list(csv.DictReader((sweep / "comparison.csv").open()))
    assert [row["student.max_length"] for row in rows] == ["2", "96", "128"]
    assert {row["student.max_length"]: row["state"] for row in csv.DictReader((sweep / "runs.csv").open())} == {
        "2": "failed",
        "96": "finished",
        "128": "finished",
    }
    assert (sweep / PLAN).is_file()


def test_events_of_a_run_tell_stages_steps_and_rounds_in_order(whole: Path) -> None:
    (path,) = whole.glob(f"sweeps/mine/*96*/{EVENTS}")
    events = read_events(path)
    kinds = [event["event"] for event in events]
    assert (kinds[0], kinds[-1]) == (Kind.RUN_STARTED, Kind.RUN_FINISHED)
    assert [event["round"] for event in events if event["event"] == Kind.ROUND_FINISHED] == [0, 1, 2]
    assert kinds.index(Kind.TRAINING_STEP) < kinds.index(Kind.ROUND_FINISHED) < len(kinds) - 1
    lines = (path.parent / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3
    assert all(event["time"] >= events[0]["time"] for event in events)
