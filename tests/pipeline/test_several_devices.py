"""`tapir trainer=ddp` in a sweep: the processes of a fit do not run the command again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from assets import ROOT

from tapir_exp.core.store import SIDECAR

pytestmark = pytest.mark.slow

DDP = ["debug=tiny", "seeds.size=120", "curriculum.rounds=0"]
DDP += ["trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true"]


def test_sweep_with_ddp_trains_each_job_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tapir_exp", "-m", *DDP, "sft.global_batch_size=6,12"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"outputs"}
    assert {path.name for path in (tmp_path / "outputs").iterdir()} == {"sweeps", "store", "latest"}
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    jobs = [path for path in sweep.iterdir() if path.is_dir()]
    assert sorted("global_batch_size-12" in job.name for job in jobs) == [False, True]
    assert done.stderr.count("student-0") == 2
    students = list((tmp_path / "outputs" / "store" / "student").iterdir())
    figures = [json.loads((student / SIDECAR).read_text())["figures"] for student in students]
    few, many = sorted(figure["steps"] for figure in figures)
    assert abs(2 * few - many) <= 2
    assert not list((tmp_path / "outputs" / "store" / "partial").iterdir())
    assert not [path for student in students for path in student.iterdir() if path.name in ("ranks", "checkpoints")]
