"""Jobs on SLURM, and in processes by submitit: results in order, lost jobs with a reason, none submitted twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from assets import ROOT
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from preloaded import run_preloaded
from process_session import members_of
from remote_fake import FakeJob, install_slurm

from tapir_exp.commands.sweeps import plugins, remote_jobs
from tapir_exp.commands.sweeps.remote_jobs import run_unfinished
from tapir_exp.commands.sweeps.submitit_jobs import FOLDER, SUBMITTED, run_on_submitit
from tapir_exp.core.events import EVENTS, EventStream, Kind, State, outcome_of, read_events
from tapir_exp.core.processes import ProcessRef, is_worker, mark_worker
from tapir_exp.report.sweep.plan_file import SweepPlan

SUPPORT = f"{ROOT}/tests/support{os.pathsep}{ROOT}"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put programs of SLURM on the path, which run the jobs on this machine."""
    for name, value in {**install_slurm(tmp_path / "slurm"), "PYTHONPATH": SUPPORT}.items():
        monkeypatch.setenv(name, value)
    from submitit import SlurmJob

    SlurmJob.watcher.clear()  # of the jobs of other tests, which had the same ids
    monkeypatch.setattr(SlurmJob.watcher, "_delay_s", 0.2)
    yield tmp_path / "slurm"
    for path in (tmp_path / "slurm").glob("*.pid"):
        with suppress(ProcessLookupError):
            os.killpg(int(path.read_text()), signal.SIGKILL)


def launch(sweep_dir: Path, cluster: str, *does: str, **parameters: Any) -> list[JobReturn]:
    sweep_dir.mkdir(exist_ok=True)
    jobs: list[Any] = [FakeJob(number, word, str(sweep_dir)) for number, word in enumerate(does)]
    return run_on_submitit(jobs, cluster, 2, 1, {"timeout_min": 5, **parameters})


class Known(FakeJob):
    """A job that is finished already or not, and returns 10 more than its number if it is carried out here."""

    def is_finished(self) -> bool:
        return self.does == "finished"

    def carry_out(self, *, configure_logging: bool) -> JobReturn:
        assert not configure_logging
        return JobReturn(overrides=self.overrides, status=JobStatus.COMPLETED, _return_value=10.0 + self.number)


def test_launcher_gets_only_the_jobs_that_are_not_finished(tmp_path: Path) -> None:
    def run(given: Sequence[Any]) -> list[JobReturn]:
        launched.append([job.number for job in given])
        return [job() for job in given]

    launched: list[list[int]] = []
    words = ("finished", "return", "finished", "return")
    jobs: list[Any] = [Known(number, word, str(tmp_path)) for number, word in enumerate(words)]
    assert [result.return_value for result in run_unfinished(jobs, run)] == [10, 1, 12, 3]
    assert launched == [[1, 3]]
    done: list[Any] = [jobs[0], jobs[2]]
    assert [result.return_value for result in run_unfinished(done, run)] == [10, 12]
    assert launched == [[1, 3]], "a launcher was started for finished jobs"


@pytest.mark.slow
def test_finished_sweep_starts_no_process(tmp_path: Path) -> None:
    words = ["-m", "debug=tiny", "seed=1,2", "curriculum.rounds=0", "launcher=submitit_local", "logger=disabled"]
    arguments = [*words, "sweep.name=s", f"outputs={tmp_path}"]
    assert run_preloaded(arguments, cwd=ROOT).returncode == 0
    table = (tmp_path / "sweeps" / "s" / "comparison.csv").read_bytes()
    submitted = sorted((tmp_path / "sweeps" / "s" / FOLDER).rglob("*"))
    again = run_preloaded(arguments, cwd=ROOT)
    assert sorted((tmp_path / "sweeps" / "s" / FOLDER).rglob("*")) == submitted
    assert again.stderr.count("finished already") == 2
    assert (tmp_path / "sweeps" / "s" / "comparison.csv").read_bytes() == table


@pytest.mark.slow
def test_local_jobs_return_in_order_and_a_lost_one_has_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", SUPPORT)
    results = launch(tmp_path / "sweep", "local", "return", "exit", "return")
    assert [result._return_value for result in results] == [0.0, None, 2.0]
    assert "without a result" in results[1].task_name
    assert f"{tmp_path}/sweep/.submitit/" in results[1].task_name


SWEEP = """
import sys
from remote_fake import FakeJob
from tapir_exp.commands.sweeps.submitit_jobs import run_on_submitit
jobs = [FakeJob(number, "hang", sys.argv[1]) for number in range(2)]
run_on_submitit(jobs, "local", 2, 1, {"timeout_min": 5})
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", [f"{FOLDER}/{SUBMITTED}", "1.pid"], ids=["as jobs start", "as jobs run"])
def test_local_jobs_end_with_a_killed_sweep(tmp_path: Path, moment: str) -> None:
    """The jobs ignore the interrupt, as a long operation of a library does."""
    (tmp_path / "sweep").mkdir()
    command = [sys.executable, "-c", SWEEP, str(tmp_path / "sweep")]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": SUPPORT}, start_new_session=True) as sweep:
        while not (tmp_path / "sweep" / moment).is_file():
            assert sweep.poll() is None
            time.sleep(0.02)
        sweep.kill()
    deadline = time.monotonic() + 5
    while (left := members_of(sweep.pid)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.mark.slow
def test_slurm_jobs_run_the_pipeline_once_and_leave_room_for_a_step_of_a_fit(slurm: Path, tmp_path: Path) -> None:
    more = {"nodes": 2, "tasks_per_node": 8, "slurm_partition": "gpu", "slurm_account": None}
    results = launch(tmp_path / "sweep", "slurm", "return", **more)
    assert [result._return_value for result in results] == [0.0], results[0].task_name
    script = (slurm / "100.sh").read_text()
    for line in ("--nodes=2", "--partition=gpu", "--ntasks-per-node=8", "--time=5"):
        assert f"#SBATCH {line}\n" in script
    (command,) = [line for line in script.splitlines() if line.startswith("srun ")]
    assert "--overlap --nodes=1 --ntasks=1" in command
    assert sys.executable in command


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["slurm", "local"])
def test_interrupt_cancels_the_jobs(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: str, capfd: pytest.CaptureFixture[str]
) -> None:
    asleep = time.sleep

    def interrupt(seconds: float) -> None:
        if (tmp_path / "sweep" / "0.pid").is_file():
            monkeypatch.setattr("tapir_exp.commands.sweeps.submitit_jobs.time.sleep", asleep)
            raise KeyboardInterrupt
        os.sched_yield()

    monkeypatch.setattr("tapir_exp.commands.sweeps.submitit_jobs.time.sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch(tmp_path / "sweep", cluster, "sleep")
    monkeypatch.undo()
    job = int((tmp_path / "sweep" / "0.pid").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{job}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{job}").exists()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_job_that_is_still_in_the_queue_is_not_submitted_again(slurm: Path, tmp_path: Path) -> None:
    from tapir_exp.commands.sweeps.submitit_jobs import _Submitted

    folder = tmp_path / "sweep" / FOLDER
    folder.mkdir(parents=True)
    job: Any = FakeJob(0, "return", str(tmp_path / "sweep"))
    (folder / SUBMITTED).write_text(json.dumps({json.dumps(job.overrides): "100"}))
    submitted = _Submitted(folder, "slurm")
    (slurm / "100.pid").write_text(str(os.getpid()))  # this process runs
    handle = submitted.find(job)
    assert handle is not None
    assert handle.job_id == "100"
    (slurm / "100.pid").write_text("999999999")
    assert submitted.find(job) is None


def test_lost_job_is_a_failed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path), "subdir": "one"}}})
    SweepPlan([["debug=tiny", f"seed={seed}"] for seed in (1, 2)]).write(tmp_path)
    sweeping = remote_jobs.Sweeping(None, None, config)  # type: ignore[arg-type]
    job = remote_jobs.RemoteJob(("debug=tiny", "seed=1"), 0, sweeping, None, ProcessRef.current(), "")
    monkeypatch.setattr("tapir_exp.core.console.console.file", sys.stderr)
    monkeypatch.setattr(remote_jobs.RemoteJob, "_config", lambda self: config)
    stream = EventStream(tmp_path / "one" / EVENTS)

    def fail() -> None:
        raise RuntimeError("out of memory")

    (tmp_path / "one").mkdir()
    stream.record(Kind.RUN_STARTED)
    assert remote_jobs.fetch(job, fail, str).return_value is None
    outcome = outcome_of(read_events(tmp_path / "one" / EVENTS))
    assert (outcome.state, outcome.reason) == (State.FAILED, "out of memory")
    assert "failed: seed=1: out of memory" in capsys.readouterr().err
    stream.record(Kind.RUN_FAILED, reason="the first reason")
    remote_jobs.fetch(job, fail, str)
    assert outcome_of(read_events(tmp_path / "one" / EVENTS)).reason == "the first reason"


@pytest.mark.parametrize(
    ("launcher", "sweeper", "extras"), [("ray", "basic", ["ray"]), ("slurm", "optuna", ["slurm", "search"])]
)
def test_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, launcher: str, sweeper: str, extras: list[str]
) -> None:
    monkeypatch.setattr(plugins, "find_spec", lambda name: None)
    targets = {key.rpartition(".")[2].lower(): key for key in plugins.PACKAGES}
    names = {"ray": "raylauncher", "slurm": "submititlauncher", "optuna": "searchsweeper"}
    chosen = {
        key: {"_target_": targets.get(names.get(name, ""), "other")}
        for key, name in {"launcher": launcher, "sweeper": sweeper}.items()
    }
    problems = plugins.missing_packages(OmegaConf.create({"hydra": chosen}))
    assert [line.rpartition("tapir-exp[")[2].rstrip("]'") for line in problems] == extras


def test_process_of_another_start_or_host_is_another_one() -> None:
    me = ProcessRef.current()
    assert me.is_here
    assert not ProcessRef(me.host, me.pid, "1").is_running
    assert not ProcessRef("elsewhere", me.pid, me.started).is_here


def test_process_is_seen_without_a_start_time() -> None:
    """A system without /proc tells none."""
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    me = ProcessRef.current()
    assert ProcessRef(me.host, me.pid, "").is_running
    assert not ProcessRef(me.host, ended.pid, "").is_running


def test_marked_process_is_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapir_exp.core.processes._marked", [])
    assert not is_worker()
    mark_worker()
    assert is_worker()
