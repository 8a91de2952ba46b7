"""Start the processes of a fit on several devices, watch them, and stop them all at the end.

A fit on several devices never runs in the process of `tapir`: Lightning would start the other processes by repeating
the command line, and with it the whole pipeline or a Hydra sweep. So the planned fit is written to a file, and torchrun
or srun starts workers that read it (`worker.py`).
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
from signal import SIGKILL, SIGTERM, Signals
from zlib import crc32

from tapir_exp.config import Launcher, TrainerConfig
from tapir_exp.core.console import Progress
from tapir_exp.core.errors import TapirError
from tapir_exp.core.events import current_path, pass_on_steps
from tapir_exp.student.training.job import PlannedFit

RANKS_DIR = "ranks"
"""Subdirectory of a fit's workdir that its processes share."""
FIT, PROGRESS, EVENTS_PATH = "fit.json", "steps", "events"
RANK_LOG, RANK_ERROR = "rank-{}.log", "error-{}.txt"
LAUNCHER_LOG = "launcher-{}.log"
ORPHANED_EXIT_CODE = 86
"""Exit code of a rank after the end of its parent."""
EXCLUDED_PREFIXES = (
    *("HYDRA_", "WANDB_", "PL_", "TORCHELASTIC_", "PET_"),
    *("RANK", "LOCAL_", "GROUP_", "ROLE_", "NODE_RANK", "WORLD_SIZE", "MASTER_"),
)
"""Prefixes of environment variables that belong to the surrounding command or to another launch. A rank that reads them
would join the wrong process group."""
FORWARDED_PREFIXES = ("PYTHONPATH", "OMP_", "HF_", "TORCH_", "NCCL_", "GLOO_", "CUDA_", "LD_LIBRARY_PATH")
"""Prefixes of environment variables that are set on other hosts, since a remote shell does not pass them on."""
SRUN = "srun"
FAILED_RANK = re.compile(r"^ +rank +: (\d+) .*\n +exitcode +: (-?\d+)", re.MULTILINE)
"""A rank and its exit code, negative for a signal, in torchrun's failure report."""
END_WITH_PARENT = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[2]))  # PR_SET_PDEATHSIG of linux/prctl.h, which lasts over an exec
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Program that becomes a launcher, after it has requested a signal at the end of its parent. `preexec_fn` could do this
as well, but may block in a process with threads."""
POLL_S, GRACE_S = 0.1, 20.0
LOG_TAIL_LINES = 15


def launch(fit: PlannedFit, workdir: Path, progress: Progress) -> None:
    """Run a fit in other processes.

    No process survives this call, even if this process is interrupted or killed.

    Args:
        fit: The fit; its encoded rows are in `workdir`.
        workdir: Directory of the fine-tuned student.
        progress: Progress bar of the fit.

    Raises:
        TapirError: With the error of a rank, or with the last lines of its log if it crashed.
    """
    ranks_dir = (workdir / RANKS_DIR).resolve()
    shutil.rmtree(ranks_dir, ignore_errors=True)  # logs and errors of a killed fit
    ranks_dir.mkdir()
    fit.write(ranks_dir / FIT)
    if (stream := current_path()) is not None:
        (ranks_dir / EVENTS_PATH).write_text(str(stream.resolve()))
    with running_launchers(launch_commands(fit.job.trainer, ranks_dir), ranks_dir) as launchers:
        _watch(launchers, ranks_dir / PROGRESS, progress)
        # Read before the context stops the other launchers, which changes their exit codes.
        failed = any(launcher.returncode != 0 for launcher in launchers)
    if failed:
        raise TapirError(describe_failure(ranks_dir, fit.job.label))
    shutil.rmtree(ranks_dir)


def launch_commands(trainer: TrainerConfig, ranks_dir: Path) -> list[list[str]]:
    """Return the commands that start the ranks: one, or one per host."""
    worker = ["-m", "tapir_exp.student.training.worker", str(ranks_dir)]
    if trainer.launcher is Launcher.srun:
        return [[*_srun(trainer), sys.executable, *worker]]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={trainer.devices}"]
    if trainer.num_nodes == 1:
        return [[*torchrun, "--standalone", *worker]]
    # The first host is this machine, which also serves the rendezvous.
    rendezvous = [f"--nnodes={trainer.num_nodes}", f"--master-addr={trainer.hosts[0]}", f"--master-port={trainer.port}"]
    nodes = [[*torchrun, *rendezvous, f"--node-rank={rank}", *worker] for rank in range(trainer.num_nodes)]
    remote_nodes = zip(trainer.hosts[1:], nodes[1:], strict=True)
    return [nodes[0], *(_remote_command(host, trainer.remote_shell, node) for host, node in remote_nodes)]


def _srun(trainer: TrainerConfig) -> list[str]:
    tasks = trainer.num_nodes * trainer.devices
    per_node = f"--ntasks-per-node={trainer.devices}"
    return [SRUN, f"--nodes={trainer.num_nodes}", f"--ntasks={tasks}", per_node, "--kill-on-bad-exit=1"]


def _remote_command(host: str, remote_shell: str, command: Sequence[str]) -> list[str]:
    """Wrap a command to run on another host, in the same directory and with the forwarded environment."""
    forwarded = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(FORWARDED_PREFIXES)]
    line = f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(['env', *forwarded, *command])}"
    return [*shlex.split(remote_shell), host, line]


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without variables of other launches."""
    return {name: value for name, value in environment.items() if not name.startswith(EXCLUDED_PREFIXES)}


@contextmanager
def running_launchers(commands: Sequence[Sequence[str]], ranks_dir: Path) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Start the launchers, and stop them all on exit.

    Args:
        commands: Command line of each launcher.
        ranks_dir: Directory of the launchers' logs.

    Yields:
        The launcher processes.

    Raises:
        TapirError: If a launcher is not installed.
    """
    launchers: list[subprocess.Popen[bytes]] = []
    try:
        for index, command in enumerate(commands):
            launchers.append(_start(command, ranks_dir / LAUNCHER_LOG.format(index)))
        yield launchers
    finally:
        _stop(launchers)


def _start(command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a launcher.

    Its ranks inherit the reading end of a pipe as standard input, and exit when the writing end is closed. It is closed
    by `_stop`, or when this process ends. The launcher itself reads no pipe, and gets a signal then. A new session
    keeps the terminal's interrupt from the launcher: only this process handles it.
    """
    if shutil.which(command[0]) is None:
        raise TapirError(
            f"trainer.launcher: {command[0]} was not found on this machine. Install it, or choose the other launcher."
        )
    environment = clean_environment(os.environ)
    if command[0] == SRUN:
        # By default the port follows from the job id, so concurrent fits of one allocation would collide.
        environment["MASTER_PORT"] = str(20_000 + crc32(str(log).encode()) % 10_000)
    if sys.platform == "linux":
        # torchrun takes seconds to stop in order, which its ranks do not need; ssh and srun pass a SIGTERM on.
        end = SIGKILL if command[0] == sys.executable else SIGTERM
        command = [sys.executable, "-ISc", END_WITH_PARENT, str(os.getpid()), str(int(end)), *command]
    with log.open("wb") as output:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment, start_new_session=True
        )


def _stop(launchers: Sequence["subprocess.Popen[bytes]"]) -> None:
    # All get the signal before any is waited for, so that their grace periods overlap.
    for launcher in launchers:
        assert launcher.stdin
        launcher.stdin.close()
        launcher.terminate()
    for launcher in launchers:
        with suppress(subprocess.TimeoutExpired):
            launcher.wait(GRACE_S)
        launcher.kill()
        launcher.wait()


def _watch(launchers: Sequence["subprocess.Popen[bytes]"], progress_file: Path, progress: Progress) -> None:
    """Show the progress until all launchers have ended, or one has failed."""
    stream = current_path()
    shown, offset = 0, stream.stat().st_size if stream is not None and stream.is_file() else 0
    while None in (codes := [launcher.poll() for launcher in launchers]) and not any(codes):
        done = int(progress_file.read_text()) if progress_file.is_file() else 0
        progress.advance(done - shown)
        shown = done
        offset = pass_on_steps(offset)
        time.sleep(POLL_S)
    pass_on_steps(offset)


def describe_failure(ranks_dir: Path, label: str) -> str:
    """Return the error that a rank reported, or else the last lines of the rank that failed first."""
    for path in sorted(ranks_dir.glob(RANK_ERROR.format("*"))):
        return path.read_text()
    logs = sorted(ranks_dir.glob(LAUNCHER_LOG.format("*")))
    rank, signal = _first_failed_rank("\n".join(path.read_text(errors="replace") for path in logs))
    # Without a rank the launcher itself failed, before it started any.
    log = ranks_dir / (LAUNCHER_LOG.format(0) if rank is None else RANK_LOG.format(rank))
    name = "The launcher" if rank is None else f"Rank {rank}"
    cause = f" by {signal}" if signal else ""
    lines = log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:] if log.is_file() else []
    tail = "\n".join(["Its last lines:", *(f"  {line}" for line in lines)]) if lines else "Its log is empty."
    return f"{name} of the fit '{label}' ended{cause}, so all processes were stopped; see {ranks_dir}. {tail}"


def _first_failed_rank(launcher_logs: str) -> tuple[str | None, str | None]:
    """Return the rank that failed first and the signal that killed it, by the logs of the launchers.

    torchrun reports all ranks that have ended in one poll as equally early. Among them, a killed rank comes before one
    that raised: the loss of a peer raises an error in the others, but kills none.
    """
    for rank, code in FAILED_RANK.findall(launcher_logs):
        if int(code) < 0 and -int(code) != SIGTERM:  # torchrun itself sends SIGTERM to the others
            return rank, f"signal {-int(code)} ({Signals(-int(code)).name})"
    root_cause = FAILED_RANK.search(launcher_logs.partition("Root Cause")[2])
    first = root_cause or re.search(r"task (\d+)", launcher_logs)
    return (first[1] if first else None), None
