"""How the processes of a fit are started and stopped; what they do is in test_ranks.py."""

import os
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tapir_exp.config import Launcher, SFTConfig, StrategyName, StudentConfig, TrainerConfig
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Subset
from tapir_exp.student.loading import AdapterBase
from tapir_exp.student.training.batching import BatchPlan
from tapir_exp.student.training.job import FitJob, read_job
from tapir_exp.student.training.launcher import (
    LAUNCHER_LOG,
    RANK_LOG,
    describe_failure,
    running_launchers,
    clean_environment,
    launch_commands,
)
from tapir_exp.student.training.strategies import build_strategy, cluster_environments

ROOM = Path("/work dir/ranks")
RANK = ["-m", "tapir_exp.student.training.worker", str(ROOM)]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture
def job(student: StudentConfig) -> FitJob:
    weights = {Subset.HARD: 0.1 + 0.2, Subset.REST: 1 / 3}
    trainer = TrainerConfig(devices=2, num_nodes=3, strategy=StrategyName.fsdp, hosts=["a", "b", "c"])
    plan = BatchPlan(((1, 2), (0,)))
    return FitJob(
        Path("meta-llama/Llama-2-7b-hf"),
        AdapterBase("../base", "main"),
        weights,
        plan,
        SFTConfig(),
        student,
        trainer,
        7,
    )


def test_a_written_job_is_read_as_it_was(job: FitJob, tmp_path: Path) -> None:
    job.write(tmp_path / "job.json")
    assert read_job(tmp_path / "job.json") == job
    assert job.ranks == 6


def test_torchrun_starts_the_ranks_of_one_node() -> None:
    assert launch_commands(TrainerConfig(devices=4), ROOM) == [[*TORCHRUN, "--nproc-per-node=4", "--standalone", *RANK]]


def test_torchrun_starts_the_ranks_of_other_hosts_by_a_remote_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib 0")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    trainer = TrainerConfig(devices=4, num_nodes=2, hosts=["a", "b"], remote_shell="ssh -q", port=1234)
    here, there = launch_commands(trainer, ROOM)
    meeting = ["--nproc-per-node=4", "--nnodes=2", "--master-addr=a", "--master-port=1234"]
    assert here == [*TORCHRUN, *meeting, "--node-rank=0", *RANK]
    assert there[:3] == ["ssh", "-q", "b"]
    assert there[3].startswith(f"cd {Path.cwd()} && exec env ")
    assert "'NCCL_SOCKET_IFNAME=ib 0'" in there[3]
    assert "--node-rank=1 -m tapir_exp.student.training.worker '/work dir/ranks'" in there[3]
    assert "secret" not in there[3]


def test_srun_starts_the_ranks_of_all_nodes() -> None:
    (command,) = launch_commands(TrainerConfig(devices=8, num_nodes=2, launcher=Launcher.srun), ROOM)
    places = ["--nodes=2", "--ntasks=16", "--ntasks-per-node=8", "--kill-on-bad-exit=1"]
    assert command == ["srun", *places, sys.executable, *RANK]


def test_ranks_inherit_neither_another_launch_nor_the_run_around_them() -> None:
    foreign = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "PET_NNODES", "TORCHELASTIC_RUN_ID"]
    foreign += ["PL_GLOBAL_SEED", "HYDRA_FULL_ERROR", "WANDB_RUN_ID", "NODE_RANK"]
    kept = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_ID": "3", "HF_HOME": "/h", "NCCL_DEBUG": "INFO"}
    assert clean_environment(kept | dict.fromkeys(foreign, "1")) == kept


def test_fits_of_one_allocation_meet_at_ports_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin" / "srun"
    srun.write_text("#!/bin/sh\necho $MASTER_PORT\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("MASTER_PORT", "1")
    ports = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with running_launchers([["srun"]], tmp_path / name) as (launcher,):
            launcher.wait()
        ports.append(int((tmp_path / name / LAUNCHER_LOG.format(0)).read_text()))
    assert ports[0] != ports[1]
    assert all(20_000 <= port < 30_000 for port in ports)


def test_a_fit_is_where_its_launcher_says_and_slurm_requeues_nothing() -> None:
    (alone,), (elastic,) = cluster_environments(TrainerConfig()), cluster_environments(TrainerConfig(devices=2))
    (slurm,) = cluster_environments(TrainerConfig(devices=2, launcher=Launcher.srun))
    kinds = [type(place).__name__ for place in (alone, elastic, slurm)]
    assert kinds == ["LightningEnvironment", "TorchElasticEnvironment", "SLURMEnvironment"]
    assert slurm.auto_requeue is False


def test_an_interrupted_fit_stops_its_launchers(tmp_path: Path) -> None:
    began = time.monotonic()
    with suppress(KeyboardInterrupt), running_launchers([["sleep", "1000"], ["cat"]], tmp_path) as launchers:
        raise KeyboardInterrupt
    assert [launcher.returncode is not None for launcher in launchers] == [True, True]
    assert time.monotonic() - began < 10


def test_a_launcher_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TapirError, match="no-such-srun"), running_launchers([["no-such-srun"]], tmp_path):
        pass


def report(*failed: tuple[int, int]) -> str:
    """What torchrun writes of ranks and their exit codes; the last is the root cause."""
    told = ["E1126 api.py:1002] failed (exitcode: 1) local_rank: 0 (pid: 30) of binary: python", "Failures:"]
    for number, (rank, code) in enumerate(failed):
        if number == len(failed) - 1:
            told.append("Root Cause (first observed failure):")
        told.append(f"[{number}]:\n  host      : a\n  rank      : {rank} (local_rank: {rank})")
        told.append(f"  exitcode  : {code} (pid: 3{rank})\n  error_file: <N/A>")
    return "\n".join(told)


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        ([(0, 1), (1, 1)], "Rank 1 of the fit 'training S_1' ended, so"),
        ([(0, 1), (1, -9)], "Rank 1 of the fit 'training S_1' ended by signal 9 (SIGKILL), so"),
        ([(1, -11), (0, 1)], "Rank 1 of the fit 'training S_1' ended by signal 11 (SIGSEGV), so"),
        ([(0, -15), (1, 1)], "Rank 1 of the fit 'training S_1' ended, so"),
        ([(1, 1)], "Rank 1 of the fit 'training S_1' ended, so"),
    ],
)
def test_failure_tells_the_lines_of_the_rank_that_failed_first(
    tmp_path: Path, failed: list[tuple[int, int]], expected: str
) -> None:
    """A killed rank comes first: that its neighbour raised, in the same instant for torchrun, is what follows of it."""
    (tmp_path / LAUNCHER_LOG.format(0)).write_text(report(*failed))
    (tmp_path / RANK_LOG.format(0)).write_text("connection closed")
    (tmp_path / RANK_LOG.format(1)).write_text("\n".join(f"line {n}" for n in range(100)))
    told = describe_failure(tmp_path, "training S_1")
    assert expected in told
    assert "line 99" in told
    assert "line 50" not in told
    assert "connection closed" not in told


def test_failure_of_srun_names_its_task(tmp_path: Path) -> None:
    (tmp_path / LAUNCHER_LOG.format(0)).write_text("srun: error: node2: task 5: Out Of Memory")
    (tmp_path / RANK_LOG.format(5)).write_text("allocating")
    assert "Rank 5" in describe_failure(tmp_path, "fit")
    assert "allocating" in describe_failure(tmp_path, "fit")


def test_failure_before_any_rank_began_is_the_launchers(tmp_path: Path) -> None:
    (tmp_path / LAUNCHER_LOG.format(0)).write_text("srun: error: Unable to allocate resources")
    assert "Unable to allocate resources" in describe_failure(tmp_path, "fit")


def test_deepspeed_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tapir_exp.student.training.strategies.find_spec", lambda name: None)
    deepspeed = TrainerConfig(devices=2, strategy=StrategyName.deepspeed)
    with pytest.raises(TapirError, match=r"pip install 'tapir-exp\[deepspeed\]'"):
        build_strategy(deepspeed, 1.0)
    assert build_strategy(replace(deepspeed, devices=1, strategy=StrategyName.auto), 1.0) == "auto"
