"""Starting and stopping the processes of a fit; `test_distributed.py` runs whole fits."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from process_session import is_running

from tapir_exp.config import Launcher, TrainerConfig
from tapir_exp.core.errors import TapirError
from tapir_exp.student.training.launcher import (
    LAUNCHER_LOG,
    RANK_LOG,
    clean_environment,
    describe_failure,
    launch_commands,
    running_launchers,
)

RANKS_DIR = Path("/work dir/ranks")
WORKER = ["-m", "tapir_exp.student.training.worker", str(RANKS_DIR)]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def test_launch_commands_torchrun_on_one_node() -> None:
    assert launch_commands(TrainerConfig(devices=4), RANKS_DIR) == [
        [*TORCHRUN, "--nproc-per-node=4", "--standalone", *WORKER]
    ]


def test_launch_commands_torchrun_on_several_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib 0")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    trainer = TrainerConfig(devices=4, num_nodes=2, hosts=["a", "b"], remote_shell="ssh -q", port=1234)
    local, remote = launch_commands(trainer, RANKS_DIR)
    rendezvous = ["--nproc-per-node=4", "--nnodes=2", "--master-addr=a", "--master-port=1234"]
    assert local == [*TORCHRUN, *rendezvous, "--node-rank=0", *WORKER]
    assert remote[:3] == ["ssh", "-q", "b"]
    assert remote[3].startswith(f"cd {Path.cwd()} && exec env ")
    assert "'NCCL_SOCKET_IFNAME=ib 0'" in remote[3]
    assert "--node-rank=1 -m tapir_exp.student.training.worker '/work dir/ranks'" in remote[3]
    assert "secret" not in remote[3]


def test_launch_commands_srun_on_several_nodes() -> None:
    (command,) = launch_commands(TrainerConfig(devices=8, num_nodes=2, launcher=Launcher.srun), RANKS_DIR)
    options = ["--nodes=2", "--ntasks=16", "--ntasks-per-node=8", "--kill-on-bad-exit=1"]
    assert command == ["srun", *options, sys.executable, *WORKER]


def test_clean_environment_drops_other_launches_and_the_run() -> None:
    foreign = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "PET_NNODES", "TORCHELASTIC_RUN_ID"]
    foreign += ["PL_GLOBAL_SEED", "HYDRA_FULL_ERROR", "WANDB_RUN_ID", "NODE_RANK"]
    own = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_ID": "3", "HF_HOME": "/h", "NCCL_DEBUG": "INFO"}
    assert clean_environment(own | dict.fromkeys(foreign, "1")) == own


def test_running_launchers_srun_gets_a_port_per_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.timing
def test_running_launchers_interrupt_stops_them_at_once(tmp_path: Path) -> None:
    start = time.monotonic()
    with suppress(KeyboardInterrupt), running_launchers([["sleep", "1000"], ["cat"]], tmp_path) as launchers:
        raise KeyboardInterrupt
    assert [launcher.returncode is not None for launcher in launchers] == [True, True]
    assert time.monotonic() - start < 10


PARENT = """
import sys, time
from pathlib import Path
from tapir_exp.student.training.launcher import running_launchers
with running_launchers([sys.argv[2:]], Path(sys.argv[1])):
    time.sleep(60)
"""
RANK = """
import os, sys, time
from pathlib import Path
from tapir_exp.student.training.worker import exit_with_parent
exit_with_parent()
(Path(sys.argv[1]) / f"{os.getpid()}.pid").touch()
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no signal at the death of a parent")
@pytest.mark.slow
def test_torchrun_and_its_ranks_end_with_a_killed_parent(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    command = [*TORCHRUN, "--nproc-per-node=2", "--standalone", str(tmp_path / "rank.py"), str(tmp_path)]
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path), *command]) as parent:
        while len(ranks := [int(path.stem) for path in tmp_path.glob("*.pid")]) < 2:
            assert parent.poll() is None
            time.sleep(0.02)
        torchrun = int(Path(f"/proc/{ranks[0]}/stat").read_text().rpartition(")")[2].split()[1])
        assert torchrun != parent.pid
        parent.kill()
    deadline = time.monotonic() + 5
    while (left := [pid for pid in (torchrun, *ranks) if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == []


def test_running_launchers_missing_command_raises(tmp_path: Path) -> None:
    with pytest.raises(TapirError, match="no-such-srun was not found"), running_launchers([["no-such-srun"]], tmp_path):
        pass


def report(*failed: tuple[int, int]) -> str:
    """Return torchrun's report on ranks and their exit codes; the last is the root cause."""
    lines = ["E1126 api.py:1002] failed (exitcode: 1) local_rank: 0 (pid: 30) of binary: python", "Failures:"]
    for index, (rank, code) in enumerate(failed):
        if index == len(failed) - 1:
            lines.append("Root Cause (first observed failure):")
        lines.append(f"[{index}]:\n  host      : a\n  rank      : {rank} (local_rank: {rank})")
        lines.append(f"  exitcode  : {code} (pid: 3{rank})\n  error_file: <N/A>")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        ([(0, 1), (1, 1)], "Rank 1 of the fit 'training S_1' ended, so all"),
        ([(0, 1), (1, -9)], "Rank 1 of the fit 'training S_1' ended by signal 9 (SIGKILL), so all"),
        ([(1, -11), (0, 1)], "Rank 1 of the fit 'training S_1' ended by signal 11 (SIGSEGV), so all"),
        ([(0, -15), (1, 1)], "Rank 1 of the fit 'training S_1' ended, so all"),
        ([(1, 1)], "Rank 1 of the fit 'training S_1' ended, so all"),
    ],
)
def test_describe_failure_shows_the_log_of_the_first_rank(
    tmp_path: Path, failed: list[tuple[int, int]], expected: str
) -> None:
    """A killed rank comes first: the error that its peer raised at the same time is a consequence."""
    (tmp_path / LAUNCHER_LOG.format(0)).write_text(report(*failed))
    (tmp_path / RANK_LOG.format(0)).write_text("connection closed")
    (tmp_path / RANK_LOG.format(1)).write_text("\n".join(f"line {n}" for n in range(100)))
    message = describe_failure(tmp_path, "training S_1")
    assert expected in message
    assert "line 99" in message
    assert "line 50" not in message
    assert "connection closed" not in message


def test_describe_failure_of_srun_names_its_task(tmp_path: Path) -> None:
    (tmp_path / LAUNCHER_LOG.format(0)).write_text("srun: error: node2: task 5: Out Of Memory")
    (tmp_path / RANK_LOG.format(5)).write_text("allocating")
    assert "Rank 5" in describe_failure(tmp_path, "fit")
    assert "allocating" in describe_failure(tmp_path, "fit")


def test_describe_failure_without_ranks_shows_the_launcher(tmp_path: Path) -> None:
    (tmp_path / LAUNCHER_LOG.format(0)).write_text("srun: error: Unable to allocate resources")
    assert "Unable to allocate resources" in describe_failure(tmp_path, "fit")
