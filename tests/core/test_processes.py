"""A worker ends with its parent, in order if it can, and in any case after the grace period."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_session import is_running

from tapir_exp.core.processes import ORPHANED_EXIT_CODE, SWEEP_VARIABLE

PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
time.sleep(60)
"""
WORKER = """
import os, sys, time
from pathlib import Path
from tapir_exp.core import processes
processes.POLL_S, processes.GRACE_S, processes.MORE_S = 0.05, 0.3, 0.2
processes.end_with_parent()
processes.end_with_parent()
out = Path(sys.argv[1])
(out / "started").write_text(str(os.getpid()))
class Slow:
    def __del__(self):
        time.sleep(60)
try:
    time.sleep(60)
except KeyboardInterrupt:
    (out / "stopped").touch()
    {then}
"""
HANGS = "time.sleep(60)"


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 30
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path.read_text()


@pytest.mark.parametrize("then", ["pass", HANGS, "slow = Slow()"], ids=["stops in order", "hangs", "hangs in its end"])
def test_worker_ends_with_a_killed_parent(tmp_path: Path, then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SWEEP_VARIABLE, raising=False)
    with subprocess.Popen([sys.executable, "-c", PARENT, WORKER.format(then=then), str(tmp_path)]) as parent:
        worker = int(wait_for(tmp_path / "started"))
        time.sleep(0.2)
        assert is_running(worker)
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(worker)
    assert (tmp_path / "stopped").is_file()


def test_worker_of_an_announced_parent_that_has_ended_ends(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as parent:
        parent.wait()
    environment = {**os.environ, SWEEP_VARIABLE: f"{parent.pid} 1"}
    command = [sys.executable, "-c", WORKER.format(then=HANGS), str(tmp_path)]
    done = subprocess.run(command, env=environment, timeout=30, check=False, stderr=subprocess.DEVNULL)
    assert done.returncode in (ORPHANED_EXIT_CODE, -signal.SIGINT)  # the interrupt may come before the `try`
