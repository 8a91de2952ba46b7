"""A sweep that is stopped, by Ctrl-C, by a scheduler, with its terminal or by SIGKILL, leaves no worker process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from process_session import members_of

pytestmark = pytest.mark.slow

SWEEP = [
    "-m",
    "launcher=two_processes",
    "seed=1,2,3,4",
    "seeds.size=2000",
    "sft.seed_stage.max_tokens=400000",
    "logger=disabled",
]
TIMEOUT_S = 120


def ignore_interrupts() -> None:
    """Ignore Ctrl-C, as a shell does for a script's command that ends in `&`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture
def sweep(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a sweep in a new session, and wait until both workers train."""
    command = [sys.executable, "-m", "tapir_exp", *SWEEP, f"outputs={tmp_path}"]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, preexec_fn=request.param) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while len(list(tmp_path.glob("store/partial/student-*"))) < 2:
            assert process.poll() is None, "the sweep ended by itself"
            assert time.monotonic() < deadline, "the workers never started to train"
            time.sleep(0.05)
        yield process
        for member in members_of(process.pid):
            os.kill(member, signal.SIGKILL)


@pytest.mark.timing
@pytest.mark.parametrize(
    ("sweep", "sig"),
    [(None, signal.SIGTERM), (None, signal.SIGHUP), (None, signal.SIGINT), (ignore_interrupts, signal.SIGTERM)],
    ids=["SIGTERM", "SIGHUP", "SIGINT", "SIGTERM in the background"],
    indirect=["sweep"],
)
def test_no_worker_outlives_its_sweep(sweep: "subprocess.Popen[bytes]", sig: signal.Signals) -> None:
    assert len(members_of(sweep.pid)) >= 3
    stopped = time.monotonic()
    sweep.send_signal(sig)
    sweep.wait(30)
    while members_of(sweep.pid) and time.monotonic() - stopped < 10:
        time.sleep(0.1)
    assert members_of(sweep.pid) == []
    assert time.monotonic() - stopped < 10
    assert sweep.returncode == 130


@pytest.mark.timing
@pytest.mark.parametrize("sweep", [None], indirect=True)
def test_no_worker_outlives_a_killed_sweep(sweep: "subprocess.Popen[bytes]") -> None:
    assert len(members_of(sweep.pid)) >= 3
    stopped = time.monotonic()
    sweep.kill()
    sweep.wait(30)
    while members_of(sweep.pid) and time.monotonic() - stopped < 10:
        time.sleep(0.1)
    assert members_of(sweep.pid) == []
    assert time.monotonic() - stopped < 5
