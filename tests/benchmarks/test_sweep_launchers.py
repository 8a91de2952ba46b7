"""The comparison of launchers counts what jobs share and what is made or paid twice, and finds processes of a run."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from scripts import load_script

from tapir_exp.core.events import EVENTS, EventStream, Kind
from tapir_exp.core.store import SIDECAR


@pytest.fixture(scope="module")
def launchers() -> ModuleType:
    """Load the script, which is no module of the package."""
    return load_script("benchmarks/sweeps/launchers.py")


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Return the outputs of two jobs: they share `seeds`, each has a student, and `mix` was made by both."""
    made, reused = Kind.STAGE_FINISHED, Kind.STAGE_REUSED
    of_jobs = {
        "one": [(made, "seeds"), (made, "s1"), (made, "mix")],
        "two": [(reused, "seeds"), (made, "s2"), (made, "mix")],
    }
    for job, stages in of_jobs.items():
        directory = tmp_path / "sweeps" / "launchers" / job
        directory.mkdir(parents=True)
        stream = EventStream(directory / EVENTS)
        stream.record(Kind.RUN_STARTED, pid=1)
        for kind, key in stages:
            stream.record(kind, stage=key, key=key)
        stream.record(Kind.TRAINING_STEP, step=1)
    (tmp_path / "store").mkdir()
    with sqlite3.connect(tmp_path / "store" / "calls.sqlite") as database:
        database.execute("CREATE TABLE spend (calls INTEGER)")
        database.execute("CREATE TABLE completions (id INTEGER)")
        database.execute("INSERT INTO spend VALUES (3), (4)")
        database.execute("INSERT INTO completions VALUES (1)")
    database.close()
    return tmp_path


def test_counts_are_those_of_journals_and_store(launchers: ModuleType, outputs: Path) -> None:
    counts = launchers.count(launchers.sweep_dir(outputs), outputs)
    assert counts.artifacts == {"seeds", "s1", "s2", "mix"}
    assert (counts.shared, counts.made_twice, counts.calls, counts.completions) == (2, 1, 7, 1)


def test_sweeps_with_other_files_are_not_equal(launchers: ModuleType, outputs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(outputs / "sweeps", other / "sweeps")
    for place, digest in ((outputs, "a"), (other, "b")):
        artifact = place / "store" / "mix" / "1"
        artifact.mkdir(parents=True)
        (artifact / SIDECAR).write_text(json.dumps({"files": {"rows.jsonl": digest}}))
        for table in launchers.TABLES:
            (launchers.sweep_dir(place) / table).write_text("the same")
    counts = launchers.count(launchers.sweep_dir(outputs), outputs)
    assert launchers.compare(outputs, counts, (outputs, counts)) == ("equal", [])
    said, problems = launchers.compare(other, counts, (outputs, counts))
    assert said == "differ: 1 artifacts"
    assert problems == ["the files of 1 artifacts differ: mix/1"]
    (launchers.sweep_dir(other) / launchers.TABLES[0]).write_text("another")
    assert launchers.compare(other, counts, (outputs, counts))[0] == f"differ: {launchers.TABLES[0]}, 1 artifacts"


def test_jobs_started_before_a_moment_were_skipped_after_it(launchers: ModuleType, outputs: Path) -> None:
    directory = launchers.sweep_dir(outputs)
    assert launchers.count_skipped(directory, 1e12) == 2
    assert launchers.count_skipped(directory, 0) == 0
    assert all(launchers.is_training(events) for _, events in launchers.journals(directory))


def test_processes_of_a_run_are_found_by_their_mark(launchers: ModuleType) -> None:
    environment = {**os.environ, launchers.MARK: "of this test"}
    with subprocess.Popen([sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE) as process:
        found: list[int] = []
        while not found:  # the child process has the environment as soon as it has its program
            assert process.poll() is None
            found = launchers.marked("of this test")
        assert found == [process.pid]
        process.kill()
        process.wait()
        assert launchers.marked("of this test") == []
