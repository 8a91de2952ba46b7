"""Measure the CPU time from the command line to the end of commands that only look.

    python benchmarks/start_up/measure.py [--repeats 3]

Prints the least CPU time of each command over the repeats, and its target. CPU time is that of the process and its
children, so a busy machine changes it less than the wall time. Still, measure on an idle machine.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = 52_002
"""Rows of the pool, as in Alpaca."""
WORDS = (
    "alpha",
    "market",
    "river",
    "explain",
    "function",
    "history",
    "number",
    "list",
    "poem",
    "write",
    "python",
    "why",
)


def main() -> None:
    """Measure all commands, and print a table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pool = write_pool(folder)
        own = [f"seeds.path={pool}", "teacher=gpt_4o", "student=qwen1_5_0_5b"]
        commands = {
            "--help": (["--help"], 0.5),
            "run --help": (["run", "--help"], 0.5),
            "plan of a run of the lab": (["plan"], None),
            "plan of a sweep of 45 jobs": (["plan", "--config-name", "lab_ablation"], 5.0),
            "plan of 52,002 rows": (["plan", "experiment=own_data", *own], 2.0),
            "inspect --rows 1": (["inspect", "--rows", "1"], 4.0),
        }
        sys.stdout.write("| command | CPU s, least | wall s, least | target, CPU s |\n|---|--:|--:|--:|\n")
        for title, (arguments, target) in commands.items():
            times = [measure(arguments, folder) for _ in range(repeats)]
            cpu, wall = min(cpu for cpu, _ in times), min(wall for _, wall in times)
            shown = "" if target is None else f"{target:g}"
            sys.stdout.write(f"| `tapir {title}` | {cpu:.2f} | {wall:.2f} | {shown} |\n")
            sys.stdout.flush()


def write_pool(folder: Path) -> Path:
    """Write a pool of instructions with responses, and return its path."""
    draw = random.Random(0)
    rows = [
        {
            "instruction": f"Row {n}: {' '.join(draw.choices(WORDS, k=14))}?",
            "output": " ".join(draw.choices(WORDS, k=60)),
        }
        for n in range(ROWS)
    ]
    path = folder / "pool.json"
    path.write_text(json.dumps(rows))
    return path


def measure(arguments: list[str], folder: Path) -> tuple[float, float]:
    """Return CPU and wall time of one command, in seconds. No request goes to the hub, since its time is not ours."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    # The first repeat writes the bytecode that an installed package has; compiling every module takes a second.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "tapir_exp", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, time.monotonic() - started


if __name__ == "__main__":
    main()
