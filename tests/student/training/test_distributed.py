"""Fits that several processes share, on this machine's processor: as good as one process, and none outlives the fit."""

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

from tapir_exp.config import BudgetConfig, Launcher, Method, SFTConfig, StrategyName, StudentConfig, TrainerConfig
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import StepTiming, Subset, TrainingStep
from tapir_exp.core.store import TIMINGS, digest_files, read_rows
from tapir_exp.student.loading import load_model
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.training.launcher import PROGRESS, RANKS_DIR
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
"""What a launch or a run around the fit may have left in the environment."""


@pytest.fixture(scope="module")
def uneven() -> list[TrainingRow]:
    """Rows of 1 or 30 words of response, so that the ranks' halves of a step differ much in what is supervised."""
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
    def run(workdir: Path, trainer: TrainerConfig, sft: SFTConfig = EIGHT, epochs: float = 2) -> FitFigures:
        workdir.mkdir(exist_ok=True)
        return finetune(base, uneven, 0.3, sft, BudgetConfig(epochs=epochs), student, trainer, 0, workdir, "fit")

    return run


@pytest.fixture(scope="module")
def whole(fit: Fit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, one micro-batch a step."""
    workdir = tmp_path_factory.mktemp("whole")
    fit(workdir, replace(TWO, devices=1))
    return workdir


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Of a student, with its adapter merged if it is one."""
    return dict(load_model(path, StudentConfig(model="lab")).named_parameters())


def assert_same_fit(one: Path, other: Path) -> None:
    """Equal but for the order of additions."""
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


def test_eight_micro_batches_are_as_good_as_one(fit: Fit, whole: Path, tmp_path: Path) -> None:
    fit(tmp_path, replace(TWO, devices=1), replace(EIGHT, max_tokens_per_micro_batch=1))
    assert_same_fit(whole, tmp_path)


@pytest.mark.parametrize("max_tokens_per_micro_batch", [10_000, 40])
def test_two_ranks_are_as_good_as_one(
    max_tokens_per_micro_batch: int, fit: Fit, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one micro-batch of four rows each, or with several; and whatever the launch around them was."""
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    figures = fit(tmp_path, TWO, replace(EIGHT, max_tokens_per_micro_batch=max_tokens_per_micro_batch))
    assert_same_fit(whole, tmp_path)
    paces = read_rows(tmp_path / TIMINGS, StepTiming)
    assert sum(pace.supervised for pace in paces) == figures.supervised_tokens


def test_sharded_weights_are_as_good_as_whole_ones(fit: Fit, whole: Path, tmp_path: Path) -> None:
    sharded = replace(TWO, strategy=StrategyName.fsdp, activation_checkpointing=True)
    fit(tmp_path, sharded, replace(EIGHT, max_tokens_per_micro_batch=40))
    assert_same_fit(whole, tmp_path)


def test_sharded_adapter_is_as_good_as_a_whole_one(fit: Fit, tmp_path: Path) -> None:
    adapted = replace(EIGHT, method=Method.lora, lora=replace(EIGHT.lora, dropout=0.0))
    fit(tmp_path / "one", replace(TWO, devices=1), adapted)
    fit(tmp_path / "two", replace(TWO, strategy=StrategyName.fsdp), adapted)
    assert_same_fit(tmp_path / "one", tmp_path / "two")


def test_sharded_mixed_precision_trains(fit: Fit, whole: Path, tmp_path: Path) -> None:
    mixed = replace(TWO, strategy=StrategyName.fsdp, precision="bf16-mixed", activation_checkpointing=True)
    fit(tmp_path, mixed)
    found, plain = (read_rows(path / TRAINING, TrainingStep)[-1].loss for path in (tmp_path, whole))
    assert found == pytest.approx(plain, rel=0.02)
    assert found != plain
    assert {p.dtype for p in weights(tmp_path).values()} == {torch.float32}


def test_two_hosts_are_as_good_as_one(fit: Fit, whole: Path, tmp_path: Path) -> None:
    """The remote shell is a script that stays on this machine; the launch, the meeting and the ranks are real."""
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\n[ "$1" = other ] && exec sh -c "$2"\n')
    shell.chmod(0o755)
    hosts = {"num_nodes": 2, "hosts": ["localhost", "other"], "remote_shell": str(shell), "port": free_port()}
    fit(tmp_path / "fit", replace(TWO, devices=1, **hosts))
    assert_same_fit(whole, tmp_path / "fit")


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


def test_a_slurm_job_is_as_good_as_one_process(
    fit: Fit, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """srun is a stand-in, which starts the ranks with the variables that SLURM documents."""
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
    assert_same_fit(whole, tmp_path / "srun")
    fit(tmp_path / "alone", replace(TWO, devices=1))  # in the same job of two tasks a node
    assert digest_files(tmp_path / "alone") == digest_files(whole)


def test_what_every_rank_refuses_is_told_as_it_is(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(TapirError, match=r"^The loss of step \d+ is nan; lower sft.learning_rate"):
        fit(tmp_path, TWO, replace(EIGHT, learning_rate=1e30, clip=1e30))
    assert_nothing_runs(tmp_path)


def test_a_killed_rank_stops_the_others_and_is_named(fit: Fit, tmp_path: Path) -> None:
    killer = threading.Thread(target=kill_rank_in_the_middle, args=(tmp_path, 1))
    killer.start()
    with pytest.raises(TapirError, match=r"Rank 1 of the fit 'fit' ended by signal 9 \(SIGKILL\), so all were stopped"):
        fit(tmp_path, TWO, epochs=5000)
    killer.join()
    assert_nothing_runs(tmp_path)


def kill_rank_in_the_middle(workdir: Path, rank: int) -> None:
    wait_for(lambda: steps_done(workdir) >= 3)
    (pid,) = [pid for pid in processes_of(workdir) if environment_of(pid).get("RANK") == str(rank)]
    os.kill(pid, signal.SIGKILL)


FIT = """
import json, sys
from pathlib import Path
from tapir_exp.config import *
from tapir_exp.core.records import Part
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.loading import load_model
from tapir_exp.student.train import finetune
base, workdir, rows, epochs = sys.argv[1:]
sft = SFTConfig(learning_rate=1e-2, global_batch_size=8, max_tokens_per_micro_batch=10_000, save_steps=3)
finetune(
    Path(base), [TrainingRow(i, r, Part(p)) for i, r, p in json.loads(rows)], 0.3, sft, BudgetConfig(float(epochs)),
    StudentConfig(model="lab", max_length=128), TrainerConfig(accelerator="cpu", devices=2), 0, Path(workdir), "fit",
)
"""


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_killed_fit_leaves_no_rank_and_ends_with_the_same_bytes(
    strategy: str, fit: Fit, base: Path, uneven: list[TrainingRow], tmp_path: Path
) -> None:
    trainer = replace(TWO, strategy=StrategyName[strategy])
    fit(tmp_path / "whole", trainer, epochs=40)
    (tmp_path / "broken").mkdir()
    given = json.dumps([(row.instruction, row.response, row.subset) for row in uneven])
    script = FIT.replace("devices=2", f"devices=2, strategy=StrategyName.{strategy}")
    parent = subprocess.Popen([sys.executable, "-c", script, str(base), str(tmp_path / "broken"), given, "40"])
    wait_for(lambda: 10 < steps_done(tmp_path / "broken") < 80 or parent.poll() is not None)
    assert processes_of(tmp_path / "broken")
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert_nothing_runs(tmp_path / "broken")
    assert list((tmp_path / "broken" / "checkpoints").glob("step-*.ckpt"))
    figures = fit(tmp_path / "broken", trainer, epochs=40)
    assert len(read_rows(tmp_path / "broken" / TIMINGS, StepTiming)) < figures.steps == 120
    assert digest_files(tmp_path / "broken") == digest_files(tmp_path / "whole")


def steps_done(workdir: Path) -> int:
    told = workdir / RANKS_DIR / PROGRESS
    try:
        return int(told.read_text())
    except FileNotFoundError:
        return 0


def processes_of(workdir: Path) -> list[int]:
    """The launchers and ranks of the fit in this directory, by what /proc says of their command lines."""
    named = str(workdir / RANKS_DIR).encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if named in words:
            found.append(int(entry.name))
    return found


def environment_of(pid: int) -> dict[str, str]:
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def assert_nothing_runs(workdir: Path) -> None:
    deadline = time.monotonic() + 20
    while processes_of(workdir) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(workdir) == []


def wait_for(happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])
