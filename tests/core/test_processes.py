"""A worker ends with its parent, in order if it can, and in any case after the grace period."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
time.sleep(60)
"""
WORKER = """
import os, sys, time
from pathlib import Path
from tapir_exp.core import processes
processes.POLL_S, processes.GRACE_S = 0.05, 0.3
processes.end_with_parent()
processes.end_with_parent()
out = Path(sys.argv[1])
(out / "started").write_text(str(os.getpid()))
try:
    time.sleep(60)
except KeyboardInterrupt:
    (out / "stopped").touch()
    {then}
"""


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 30
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path.read_text()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("then", ["pass", "time.sleep(60)"], ids=["stops in order", "hangs"])
def test_worker_ends_with_a_killed_parent(tmp_path: Path, then: str) -> None:
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
