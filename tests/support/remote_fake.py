"""A job for the launchers that needs neither Hydra nor torch, and the programs of SLURM on this machine."""

import os
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

SBATCH = """
import os, subprocess, sys
script = sys.argv[-1]
text = open(script).read()
home = os.environ["FAKE_SLURM"]
number = len([name for name in os.listdir(home) if name.endswith(".sh")]) + 100
open(f"{home}/{number}.sh", "w").write(text)
out = [line.split("=", 1)[1] for line in text.splitlines() if line.startswith("#SBATCH --output=")][0]
env = {**os.environ, "SLURM_JOB_ID": str(number), "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
       "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here"}
out = out.replace("%j", str(number))
os.makedirs(os.path.dirname(out), exist_ok=True)
log = open(out, "ab")
process = subprocess.Popen(["bash", script], env=env, stdout=log, stderr=log, start_new_session=True)
open(f"{home}/{number}.pid", "w").write(str(process.pid))
print(f"Submitted batch job {number}")
"""
SRUN = """
import os, sys
words = sys.argv[1:]
while words[0].startswith("-"):
    words = words[1 if "=" in words[0] or words[0] in ("--unbuffered", "--overlap") else 2:]
os.execvp(words[0], words)
"""
SACCT = """
import os
home = os.environ["FAKE_SLURM"]
print("JobID|State|NodeList")
for name in os.listdir(home):
    if name.endswith(".pid"):
        try:
            state = open(f"/proc/{open(f'{home}/{name}').read()}/stat").read().rpartition(")")[2].split()[0]
        except OSError:
            state = "Z"
        print(f"{name[:-4]}|{'FAILED' if state == 'Z' else 'RUNNING'}|here")
"""
SCANCEL = """
import os, sys
group = int(open(os.environ["FAKE_SLURM"] + "/" + sys.argv[1] + ".pid").read())
os.killpg(group, 15)
os.killpg(group, 9)  # SLURM waits 30 s before
"""


def install_slurm(directory: Path) -> dict[str, str]:
    """Write programs with the names of SLURM's, and return the environment in which they are found."""
    directory.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": SCANCEL}.items():
        path = directory / name
        path.write_text(f"#!{sys.executable} -S{text}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{directory}{os.pathsep}{os.environ['PATH']}", "FAKE_SLURM": str(directory)}


@dataclass
class FakeJob:
    """Job of a launcher that does what it is told.

    Attributes:
        number: Number in the sweep.
        does: `return`, `exit` without a result, `sleep`, or `hang` whatever it is told.
        sweep_dir: Directory of the sweep.
    """

    number: int
    does: str
    sweep_dir: str

    @property
    def overrides(self) -> tuple[str, ...]:
        return (f"seed={self.number}",)

    @property
    def label(self) -> str:
        return f"job {self.number}"

    @property
    def sweeping(self) -> Any:
        return SimpleNamespace(config=SimpleNamespace(hydra=SimpleNamespace(sweep=SimpleNamespace(dir=self.sweep_dir))))

    def __call__(self) -> JobReturn:
        (Path(self.sweep_dir) / f"{self.number}.pid").write_text(str(os.getpid()))
        if self.does == "exit":
            os._exit(3)
        if self.does in ("sleep", "hang"):
            import time

            while True:
                with suppress(KeyboardInterrupt if self.does == "hang" else ()):
                    time.sleep(60)
        return JobReturn(overrides=self.overrides, status=JobStatus.COMPLETED, _return_value=float(self.number))

    def lost(self, reason: str) -> JobReturn:
        return JobReturn(overrides=self.overrides, status=JobStatus.COMPLETED, _return_value=None, task_name=reason)
