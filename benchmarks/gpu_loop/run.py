"""Carry out `debug=tiny` on a GPU, kill the same run inside a fit, resume it, and compare the files of all artifacts.

    python benchmarks/gpu_loop/run.py [--accelerator gpu] [OVERRIDE ...]

Fits are deterministic in float32 (`trainer=default`), so the resumed run must end with the same bytes. The output has
the exit code of each run, the device of generation, and steps, MFU and peak memory of each fit. The MFU is null without
a known GPU. `trainer=gpu` among the overrides computes in bfloat16 with Liger's kernels, and bytes may differ.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
from artifact_files import artifact_files, differing_artifacts

from tapir_exp.core.store import SIDECAR, TIMINGS

POLL_S = 0.01
LOG_LINES = 15


class Runs:
    """Starts runs with the same overrides, each with its own outputs."""

    def __init__(self, overrides: list[str], folder: Path) -> None:
        self._overrides, self._folder = overrides, folder

    def outputs(self, name: str) -> Path:
        """Return the outputs of a run."""
        return self._folder / name

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Start a run; its output goes to a log next to its outputs."""
        command = [sys.executable, "-m", "tapir_exp", "debug=tiny", *self._overrides, f"outputs={self.outputs(name)}"]
        with (self._folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def tail(self, name: str) -> str:
        """Return the last lines of a log."""
        return "\n".join((self._folder / f"{name}.log").read_text().splitlines()[-LOG_LINES:])


def kill_inside_a_fit(runs: Runs, name: str) -> str:
    """Start a run and kill it at its first checkpoint; return the path of the checkpoint."""
    process = runs.start(name)
    while process.poll() is None:
        if found := sorted(runs.outputs(name).glob("store/partial/*/checkpoints/step-*.ckpt")):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return str(found[0].relative_to(runs.outputs(name)))
        time.sleep(POLL_S)
    return f"no checkpoint was seen, exit code {process.returncode}"


def describe_fits(outputs: Path) -> list[dict[str, Any]]:
    """Return steps, MFU and peak memory of each fit."""
    fits = []
    for path in sorted(outputs.glob(f"store/student/*/{TIMINGS}")):
        last = json.loads(path.read_text().splitlines()[-1])
        fits.append({"fit": path.parent.name[:8], "step": last["step"], "mfu": last["mfu"], "mib": last["memory_mb"]})
    return fits


def device_of_generation(outputs: Path) -> str:
    """Return the device on which the engine loads a student of the run."""
    from tapir_exp.config import StudentConfig
    from tapir_exp.student.engines.hf import load_on_device

    student = next(outputs.glob(f"store/student/*/{SIDECAR}")).parent
    return str(load_on_device(student, StudentConfig(model=str(student))).device)


def main() -> int:
    """Run, kill, resume and compare; return 1 if a run fails or a file differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", default="gpu")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        runs = Runs([*options.overrides, f"trainer.accelerator={options.accelerator}"], Path(folder))
        whole = runs.start("whole")
        print("killed at", kill_inside_a_fit(runs, "resumed"), flush=True)
        codes = runs.start("resumed").wait(), whole.wait()
        print(f"exit codes: resumed {codes[0]}, whole {codes[1]}")
        if any(codes):
            print(runs.tail("whole"), runs.tail("resumed"), sep="\n---\n")
            return 1
        first, second = (artifact_files(runs.outputs(name)) for name in ("whole", "resumed"))
        differing = differing_artifacts(first, second)
        print(f"{len(first)} and {len(second)} artifacts, {len(differing)} of them differ: {differing}")
        print("device of generation:", device_of_generation(runs.outputs("whole")))
        print(*map(json.dumps, describe_fits(runs.outputs("whole"))), sep="\n")
        return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
