"""Starts the processes of a fit on several devices, watches them, and leaves none behind.

A fit on several devices never runs in the process of `tapir`: Lightning would start its other processes by running the
command line once more, the whole pipeline and a sweep of Hydra included. So the fit is written down as a job, and an
engine made for it, torchrun or srun, starts the processes that read it (`rank.py`).
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGTERM, Signals
from zlib import crc32

from tapir_exp.config import Launcher, TrainerConfig
from tapir_exp.core.console import Progress
from tapir_exp.core.errors import TapirError
from tapir_exp.student.training.job import FitJob

RANKS_DIR = "ranks"
"""The directory in a fit's workdir that its processes share."""
JOB, PROGRESS = "job.json", "steps"
RANK_LOG, RANK_ERROR = "rank-{}.log", "refused-{}.txt"
LAUNCHER_LOG = "launcher-{}.log"
ORPHANED_EXIT_CODE = 86
"""Exit code of a rank whose parent has gone."""
EXCLUDED_PREFIXES = (
    *("HYDRA_", "WANDB_", "PL_", "TORCHELASTIC_", "PET_"),
    *("RANK", "LOCAL_", "GROUP_", "ROLE_", "NODE_RANK", "WORLD_SIZE", "MASTER_"),
)
"""Beginnings of the environment variables that belong to the command around the fit, or to another launch: a rank that
read them would take itself for a part of that."""
FORWARDED_PREFIXES = ("PYTHONPATH", "OMP_", "HF_", "TORCH_", "NCCL_", "GLOO_", "CUDA_", "LD_LIBRARY_PATH")
"""Beginnings of those that a remote shell does not pass on by itself."""
SRUN = "srun"
FAILED_RANK = re.compile(r"^ +rank +: (\d+) .*\n +exitcode +: (-?\d+)", re.MULTILINE)
"""A rank and its exit code, negative for a signal, in torchrun's report of a failure."""
POLL_S, GRACE_S = 0.1, 20.0
LOG_TAIL_LINES = 15


def launch(job: FitJob, workdir: Path, label: str, progress: Progress) -> None:
    """Carry out a fit in processes of its own.

    Raises TapirError with what a rank refused, or with its last lines where it failed. Whatever happens, no process
    is left: not where this one is interrupted or killed either.
    """
    room = (workdir / RANKS_DIR).resolve()
    shutil.rmtree(room, ignore_errors=True)
    room.mkdir()
    job.write(room / JOB)
    with running_launchers(launch_commands(job.trainer, room), room) as launchers:
        _watch(launchers, room / PROGRESS, progress)
        failed = any(launcher.returncode != 0 for launcher in launchers)
    if failed:
        raise TapirError(describe_failure(room, label))
    shutil.rmtree(room)


def launch_commands(trainer: TrainerConfig, room: Path) -> list[list[str]]:
    """What starts the ranks: one command, or one for each host."""
    rank = ["-m", "tapir_exp.student.training.worker", str(room)]
    if trainer.launcher is Launcher.srun:
        return [[*_srun(trainer), sys.executable, *rank]]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={trainer.devices}"]
    if trainer.num_nodes == 1:
        return [[*torchrun, "--standalone", *rank]]
    meeting = [f"--nnodes={trainer.num_nodes}", f"--master-addr={trainer.hosts[0]}", f"--master-port={trainer.port}"]
    nodes = [[*torchrun, *meeting, f"--node-rank={number}", *rank] for number in range(trainer.num_nodes)]
    remote = [_remote_command(host, trainer.remote_shell, node) for host, node in zip(trainer.hosts[1:], nodes[1:], strict=True)]
    return [nodes[0], *remote]


def _srun(trainer: TrainerConfig) -> list[str]:
    count = trainer.num_nodes * trainer.devices
    per_node = f"--ntasks-per-node={trainer.devices}"
    return [SRUN, f"--nodes={trainer.num_nodes}", f"--ntasks={count}", per_node, "--kill-on-bad-exit=1"]


def _remote_command(host: str, remote_shell: str, command: Sequence[str]) -> list[str]:
    """The command on another host, in the same directory and with what it needs of the environment."""
    carried = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(FORWARDED_PREFIXES)]
    line = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(['env', *carried, *command])}"
    return [*shlex.split(remote_shell), host, line]


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what would make a rank take part in anything but its own fit."""
    return {name: value for name, value in environment.items() if not name.startswith(EXCLUDED_PREFIXES)}


@contextmanager
def running_launchers(commands: Sequence[Sequence[str]], room: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """The launchers, running; at the end all are stopped. Raises TapirError where a launcher is not installed."""
    launchers: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(commands):
            launchers.append(_start(command, room / LAUNCHER_LOG.format(number)))
        yield launchers
    finally:
        _stop(launchers)


def _start(command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """A launcher; its ranks inherit the reading end of a pipe as their standard input.

    They die when the writing end is closed: by `_stop`, or by the death of this process. A session of its own keeps
    the terminal's interrupt from the launcher, which this process answers.
    """
    pipe, environment = subprocess.PIPE, clean_environment(os.environ)
    if command[0] == SRUN:  # else all fits of an allocation would meet at the port that its number gives
        environment["MASTER_PORT"] = str(20_000 + crc32(str(log).encode()) % 10_000)
    with log.open("wb") as told:
        try:
            return subprocess.Popen(
                command, stdin=pipe, stdout=told, stderr=told, env=environment, start_new_session=True
            )
        except FileNotFoundError as error:
            raise TapirError(f"There is no {command[0]} here, which should start the processes of the fit.") from error


def _stop(launchers: Sequence["subprocess.Popen[bytes]"]) -> None:
    for launcher in launchers:
        assert launcher.stdin
        launcher.stdin.close()
        launcher.terminate()
    for launcher in launchers:
        with suppress(subprocess.TimeoutExpired):
            launcher.wait(GRACE_S)
        launcher.kill()
        launcher.wait()


def _watch(launchers: Sequence["subprocess.Popen[bytes]"], told: Path, progress: Progress) -> None:
    """Pass the progress on until all launchers have ended, or one has failed."""
    shown = 0
    while None in (codes := [launcher.poll() for launcher in launchers]) and not any(codes):
        done = int(told.read_text()) if told.is_file() else 0
        progress.advance(done - shown)
        shown = done
        time.sleep(POLL_S)


def describe_failure(room: Path, label: str) -> str:
    """What went wrong: what a rank refused, or else the last lines of the rank that failed first."""
    for refused in sorted(room.glob(RANK_ERROR.format("*"))):
        return refused.read_text()
    launchers = "\n".join(path.read_text(errors="replace") for path in sorted(room.glob(LAUNCHER_LOG.format("*"))))
    rank, killed = _first_failed(launchers)
    log = room / (LAUNCHER_LOG.format(0) if rank is None else RANK_LOG.format(rank))
    name = "The launcher" if rank is None else f"Rank {rank}"
    how = f" by {killed}" if killed else ""
    lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:] if log.is_file() else []
    told = "\n".join(["Its last lines:", *(f"  {line}" for line in lines)]) if lines else "It said nothing."
    return f"{name} of the fit '{label}' ended{how}, so all were stopped; see {room}. {told}"


def _first_failed(launchers: str) -> tuple[str | None, str | None]:
    """The rank where it began, and the signal that killed it, as the launchers tell them.

    torchrun takes the ranks that it finds ended at one look for equally early. Among them one that was killed comes
    before one that raised: losing a neighbour raises, but kills nobody.
    """
    for rank, code in FAILED_RANK.findall(launchers):
        if int(code) < 0 and -int(code) != SIGTERM:
            return rank, f"signal {-int(code)} ({Signals(-int(code)).name})"
    root_cause = FAILED_RANK.search(launchers.partition("Root Cause")[2])
    first = root_cause or re.search(r"task (\d+)", launchers)
    return (first[1] if first else None), None
