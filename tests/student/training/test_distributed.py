"""Fits of several processes on the CPU: their results match those of one process, and no process survives a fit."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tapir_exp.config import BudgetConfig, Launcher, Method, SFTConfig, StrategyName, StudentConfig, TrainerConfig
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Subset, TrainingStep
from tapir_exp.core.step_timing import StepTiming
from tapir_exp.core.store import TIMINGS, digest_files, read_rows
from tapir_exp.student.loading import load_model
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.training.files import AVERAGE, OPTIMIZER_STATE
from tapir_exp.student.training.job import FitJob
from tapir_exp.student.training.launcher import PROGRESS, RANKS_DIR
from tapir_exp.student.training.schedule import Averaging, FitSchedule
from tapir_exp.student.training.train import TRAINING, FitFigures, finetune

pytestmark = pytest.mark.slow

Fit = Callable[..., FitFigures]
TWO = TrainerConfig(accelerator="cpu", devices=2)
EIGHT = SFTConfig(learning_rate=1e-2, global_batch_size=8, max_tokens_per_micro_batch=10_000, save_steps=3)
FOREIGN = {
    "RANK": "1",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "7",
    "MASTER_ADDR": "nowhere",
    "PET_NNODES": "3",
    "HYDRA_FULL_ERROR": "1",
}
"""Variables that a surrounding launch or run may have set."""


@pytest.fixture(scope="module")
def uneven() -> list[TrainingRow]:
    """Return rows with responses of 1 or 30 words, so that ranks have different numbers of supervised tokens."""
    words = ["red", "green", "blue", "black", "white"]
    return [
        TrainingRow(
            "Say " + " ".join(words[i % 5] for i in range(n)),
            " ".join(words[(i + n) % 5] for i in range(1 if n % 2 else 30)),
            Subset.HARD if n % 3 == 0 else Subset.REST,
        )
        for n in range(1, 19)
    ]


@pytest.fixture(scope="module")
def fit(base: Path, uneven: list[TrainingRow], student: StudentConfig) -> Fit:
    def run(
        workdir: Path, trainer: TrainerConfig, sft: SFTConfig = EIGHT, epochs: float = 2, **changes: Any
    ) -> FitFigures:
        workdir.mkdir(exist_ok=True)
        job = FitJob(base, sft, BudgetConfig(epochs=epochs), student, trainer, alpha=0.3, label="fit", **changes)
        return finetune(job, uneven, workdir)

    return run


@pytest.fixture(scope="module")
def single(fit: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a fit of one process with one micro-batch per step."""
    workdir = tmp_path_factory.mktemp("single")
    fit(workdir, replace(TWO, devices=1))
    return workdir


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a student, with its adapter merged if it has one."""
    return dict(load_model(path, StudentConfig(model="lab")).named_parameters())


def assert_same_fit(one: Path, other: Path) -> None:
    """Check that two fits are equal except for rounding."""
    pairs = zip(*(read_rows(path / TRAINING, TrainingStep) for path in (one, other)), strict=True)
    for a, b in pairs:
        assert (a.step, a.tokens, a.learning_rate) == (b.step, b.tokens, b.learning_rate)
        for name in ("loss", "loss_hard", "loss_rest", "gradient_norm"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-6), name
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], atol=1e-5, rtol=1e-5, msg=name)
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}


def test_one_rank_many_micro_batches_match_one(fit: Fit, single: Path, tmp_path: Path) -> None:
    fit(tmp_path, replace(TWO, devices=1), replace(EIGHT, max_tokens_per_micro_batch=1))
    assert_same_fit(single, tmp_path)


@pytest.mark.parametrize("max_tokens_per_micro_batch", [10_000, 40])
def test_ddp_two_ranks_match_one(
    max_tokens_per_micro_batch: int, fit: Fit, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks have one micro-batch of four rows, or several. Variables of another launch have no effect."""
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    figures = fit(tmp_path, TWO, replace(EIGHT, max_tokens_per_micro_batch=max_tokens_per_micro_batch))
    assert_same_fit(single, tmp_path)
    timings = read_rows(tmp_path / TIMINGS, StepTiming)
    assert sum(timing.supervised for timing in timings) == figures.supervised_tokens


def test_fsdp_two_ranks_match_one(fit: Fit, single: Path, tmp_path: Path) -> None:
    sharded = replace(TWO, strategy=StrategyName.fsdp, activation_checkpointing=True)
    fit(tmp_path, sharded, replace(EIGHT, max_tokens_per_micro_batch=40))
    assert_same_fit(single, tmp_path)


def test_fsdp_lora_two_ranks_match_one(fit: Fit, tmp_path: Path) -> None:
    adapted = replace(EIGHT, method=Method.lora, lora=replace(EIGHT.lora, dropout=0.0))
    fit(tmp_path / "one", replace(TWO, devices=1), adapted)
    fit(tmp_path / "two", replace(TWO, strategy=StrategyName.fsdp), adapted)
    assert_same_fit(tmp_path / "one", tmp_path / "two")


def test_fsdp_bf16_mixed_trains(fit: Fit, single: Path, tmp_path: Path) -> None:
    mixed = replace(TWO, strategy=StrategyName.fsdp, precision="bf16-mixed", activation_checkpointing=True)
    fit(tmp_path, mixed)
    mixed_loss, plain_loss = (read_rows(path / TRAINING, TrainingStep)[-1].loss for path in (tmp_path, single))
    assert mixed_loss == pytest.approx(plain_loss, rel=0.02)
    assert mixed_loss != plain_loss
    assert {p.dtype for p in weights(tmp_path).values()} == {torch.float32}


def test_torchrun_two_hosts_match_one_process(fit: Fit, single: Path, tmp_path: Path) -> None:
    """The remote shell is a local script; launch, rendezvous and ranks are real."""
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\n[ "$1" = other ] && exec sh -c "$2"\n')
    shell.chmod(0o755)
    hosts = {"num_nodes": 2, "hosts": ["localhost", "other"], "remote_shell": str(shell), "port": free_port()}
    fit(tmp_path / "fit", replace(TWO, devices=1, **hosts))
    assert_same_fit(single, tmp_path / "fit")


SRUN = """#!{python}
import os, subprocess, sys
options = dict(part[2:].split("=") for part in sys.argv[1:] if part.startswith("--"))
command = [part for part in sys.argv[1:] if not part.startswith("--")]
tasks = int(options["ntasks"])
step = dict(SLURM_NTASKS=str(tasks), SLURM_NNODES=options["nodes"], SLURM_NTASKS_PER_NODE=options["ntasks-per-node"])
ranks = [
    subprocess.Popen(command, env=dict(os.environ, **step, SLURM_PROCID=str(n), SLURM_LOCALID=str(n), SLURM_NODEID="0"))
    for n in range(tasks)
]
sys.exit(max(rank.wait() for rank in ranks))
"""


def test_srun_two_tasks_match_one_process(
    fit: Fit, single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """srun is a script that starts the ranks with the variables that SLURM documents."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(SRUN.format(python=sys.executable))
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}{os.pathsep}{os.environ['PATH']}")
    batch = {"SLURM_JOB_ID": f"7{free_port() % 10_000}", "SLURM_JOB_NAME": "tapir", "SLURM_NTASKS": "1"}
    batch |= {"SLURM_NODELIST": "127.0.0.1", "SLURM_NTASKS_PER_NODE": "2"}
    for name, value in batch.items():
        monkeypatch.setenv(name, value)
    fit(tmp_path / "srun", replace(TWO, launcher=Launcher.srun))
    assert_same_fit(single, tmp_path / "srun")
    fit(tmp_path / "alone", replace(TWO, devices=1))  # a fit of one process in a job of two tasks per node
    assert digest_files(tmp_path / "alone") == digest_files(single)


def test_error_of_the_ranks_is_raised_once(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(
        TapirError, match=r"^The loss of step \d+ is nan, not a finite number: lower sft\.learning_rate"
    ):
        fit(tmp_path, TWO, replace(EIGHT, learning_rate=1e30, max_grad_norm=1e30))
    assert_nothing_runs(tmp_path)


def test_killed_rank_stops_the_others_and_is_named(fit: Fit, tmp_path: Path) -> None:
    killer = threading.Thread(target=kill_rank_in_the_middle, args=(tmp_path, 1))
    killer.start()
    with pytest.raises(TapirError, match=r"Rank 1 of the fit 'fit' ended by signal 9 \(SIGKILL\), so all processes"):
        fit(tmp_path, TWO, epochs=5000)
    killer.join()
    assert_nothing_runs(tmp_path)


def kill_rank_in_the_middle(workdir: Path, rank: int) -> None:
    wait_for(lambda: steps_done(workdir) >= 3)
    (pid,) = [pid for pid in processes_of(workdir) if environment_of(pid).get("RANK") == str(rank)]
    os.kill(pid, signal.SIGKILL)


FIT = """
import json, sys
from pathlib import *
from tapir_exp.config import *
from tapir_exp.core.records import Subset
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.training.job import FitJob
from tapir_exp.student.training.schedule import Averaging, FitSchedule
from tapir_exp.student.training.train import finetune
base, workdir, rows, epochs = sys.argv[1:]
job = FitJob(
    Path(base),
    SFTConfig(learning_rate=1e-2, global_batch_size=8, max_tokens_per_micro_batch=10_000, save_steps=3),
    BudgetConfig(float(epochs)),
    StudentConfig(model="lab", max_length=128),
    TrainerConfig(accelerator="cpu", devices=2),
    alpha=0.3,
)
finetune(job, [TrainingRow(i, r, Subset(s)) for i, r, s in json.loads(rows)], Path(workdir))
"""


@pytest.fixture(scope="module")
def carried(fit: Fit, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the settings of a round's fit that starts with a state of Adam, saves its own, and averages weights."""
    earlier = tmp_path_factory.mktemp("earlier")
    fit(earlier, replace(TWO, devices=1), epochs=1, save_optimizer_state=True)
    return {
        "schedule": FitSchedule(1e-2, 0.1, number=2, fits=3),
        "optimizer_state": earlier / OPTIMIZER_STATE,
        "save_optimizer_state": True,
        "averaging": Averaging(3, 0.75),
    }


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_carried_state_and_average_match_one_rank(
    strategy: str, fit: Fit, carried: dict[str, Any], tmp_path: Path
) -> None:
    fit(tmp_path / "one", replace(TWO, devices=1), **carried)
    fit(tmp_path / "two", replace(TWO, strategy=StrategyName[strategy]), **carried)
    assert_same_fit(tmp_path / "one", tmp_path / "two")
    for file in (OPTIMIZER_STATE, f"{AVERAGE}/model.safetensors"):
        one, two = (load_file(tmp_path / name / file) for name in ("one", "two"))
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp, carried"])
def test_killed_fit_leaves_no_rank_and_resumes(
    strategy: str, fit: Fit, base: Path, uneven: list[TrainingRow], carried: dict[str, Any], tmp_path: Path
) -> None:
    strategy, _, settings = strategy.partition(", ")
    changes = carried if settings else {}
    trainer = replace(TWO, strategy=StrategyName[strategy])
    fit(tmp_path / "whole", trainer, epochs=20, **changes)
    (tmp_path / "broken").mkdir()
    rows_json = json.dumps([(row.instruction, row.response, row.subset) for row in uneven])
    script = FIT.replace("devices=2", f"devices=2, strategy=StrategyName.{strategy}")
    script = script.replace("alpha=0.3", ", ".join(["alpha=0.3", *(f"{k}={v!r}" for k, v in changes.items())]))
    parent = subprocess.Popen([sys.executable, "-c", script, str(base), str(tmp_path / "broken"), rows_json, "20"])
    wait_for(lambda: 5 < steps_done(tmp_path / "broken") < 45 or parent.poll() is not None)
    assert processes_of(tmp_path / "broken")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert_nothing_runs(tmp_path / "broken")
    assert list((tmp_path / "broken" / "checkpoints").glob("step-*.ckpt"))
    figures = fit(tmp_path / "broken", trainer, epochs=20, **changes)
    assert len(read_rows(tmp_path / "broken" / TIMINGS, StepTiming)) < figures.steps == 60
    assert digest_files(tmp_path / "broken") == digest_files(tmp_path / "whole")


def steps_done(workdir: Path) -> int:
    progress = workdir / RANKS_DIR / PROGRESS
    try:
        return int(progress.read_text())
    except FileNotFoundError:
        return 0


def processes_of(workdir: Path) -> list[int]:
    """Return the process ids of launchers and ranks of a fit, by their command lines in /proc."""
    ranks_dir = str(workdir / RANKS_DIR).encode()
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if ranks_dir in words:
            pids.append(int(entry.name))
    return pids


def environment_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def assert_nothing_runs(workdir: Path) -> None:
    deadline = time.monotonic() + 20
    while processes_of(workdir) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(workdir) == []


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])
