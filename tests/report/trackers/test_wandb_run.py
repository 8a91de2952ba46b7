"""The process of W&B behind a tracker."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tapir_exp.report.trackers.wandb_run import SERVICE, leave_inherited_service

PARENT = """
import subprocess, sys
import wandb

wandb.setup()  # a notebook, say, which uses W&B itself
for _ in range(2):
    print(subprocess.run([sys.executable, "-c", *sys.argv[1:]]).returncode)
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from tapir_exp.config import LoggerConfig, WandbMode
from tapir_exp.report.trackers.base import JobInfo
from tapir_exp.report.trackers.wandb_run import WandbTracker

run_dir = Path(sys.argv[1])
WandbTracker(LoggerConfig(), WandbMode.offline, JobInfo("id", "n", None, "train", (), {}, run_dir, run_dir, run_dir), 0)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("is_own", [False, True])
def test_only_the_own_service_is_used(is_own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"3-{os.getpid() if is_own else os.getppid()}-unix-/a-socket"
    monkeypatch.setenv(SERVICE, address)
    leave_inherited_service()
    assert os.environ.get(SERVICE) == (address if is_own else None)


@pytest.mark.slow
def test_killed_run_is_continued_below_a_program_that_uses_wandb(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != SERVICE} | {"WANDB_MODE": "offline"}
    command = [sys.executable, "-c", PARENT, KILLED, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * 2, done.stderr
