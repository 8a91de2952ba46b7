"""Compare the speed of generation: Hugging Face's `generate`, our engines, and llama.cpp.

Run `pip install ctranslate2 xllamacpp gguf`, then `python benchmarks/generate/compare.py --prompts 128 --repeats 3`. A
contender that is not installed is skipped and reported. Every measurement is a fresh process on one thread, and the
contenders alternate. A rate is new tokens, including the end of turn, per second of processor time, which other load on
the machine affects least.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from contenders import CONTENDERS
from rich.console import Console
from rich.table import Table
from task import make_student

HERE = Path(__file__).parent
REFERENCES = [name for name in CONTENDERS if name.startswith("HF generate") and "sorted" not in name]
"""Contenders of which the best in each repetition is the unit of the ratios."""
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

Runs = dict[str, list[dict[str, Any]]]
"""Measurements of each contender, one per repetition."""


def measure(name: str, student: Path, prompts: int, seed: int) -> dict[str, Any] | None:
    """Measure one contender in a new process; return None if its library is not installed."""
    command = [sys.executable, "contenders.py", name, str(student), str(prompts), str(seed)]
    result = subprocess.run(
        command, cwd=HERE, env={**os.environ, **THREADS}, capture_output=True, text=True, check=False
    )
    if result.returncode and ("ModuleNotFoundError" in result.stderr or "not installed" in result.stderr):
        return None
    if result.returncode:
        raise SystemExit(f"{name}: {result.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


def rate(run: dict[str, Any]) -> float:
    """Return new tokens per second of processor time."""
    return float(sum(map(len, run["responses"])) / run["cpu"])


def count_equal(run: dict[str, Any], reference: dict[str, Any]) -> int:
    """Count the prompts with exactly the tokens of the reference."""
    return sum(one == other for one, other in zip(run["responses"], reference["responses"], strict=True))


def make_table(runs_of: Runs) -> Table:
    """Tabulate medians over repetitions; a ratio is to the best HF contender of the same repetition."""
    repetitions = range(len(runs_of[REFERENCES[0]]))
    best = [max(rate(runs_of[name][index]) for name in REFERENCES) for index in repetitions]
    columns = ("tokens/CPU s", "vs. best HF", "tokens/s", "startup, CPU s", "equal prompts")
    table = Table("contender", *columns, title="medians over repetitions; equal prompts: the fewest of all repetitions")
    for name, runs in runs_of.items():
        ratio = median(rate(run) / best[index] for index, run in enumerate(runs))
        wall = median(sum(map(len, run["responses"])) / run["wall"] for run in runs)
        ready = median(run["ready"] for run in runs)
        same = min(count_equal(run, runs_of[REFERENCES[0]][index]) for index, run in enumerate(runs))
        total = len(runs[0]["responses"])
        cells = (f"{median(map(rate, runs)):.0f}", f"{ratio:.2f}", f"{wall:.0f}", f"{ready:.1f}", f"{same} of {total}")
        table.add_row(name, *cells)
    return table


def describe(runs: list[dict[str, Any]]) -> str:
    """Describe the lengths of the responses."""
    lengths = [len(response) for run in runs for response in run["responses"]]
    return f"responses of {min(lengths)} to {max(lengths)} tokens, {sum(lengths) / len(lengths):.1f} on average"


def main() -> None:
    """Measure all contenders and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), help="contenders to run in addition to HF's")
    args = parser.parse_args()
    runs_of: Runs = defaultdict(list)
    missing: set[str] = set()
    with TemporaryDirectory() as folder:
        make_student(Path(folder))
        for seed in range(args.repeats):
            for name in [*REFERENCES, *(name for name in args.only if name not in REFERENCES)]:
                figures = measure(name, Path(folder), args.prompts, seed)
                if figures is None:
                    missing.add(name)
                    continue
                runs_of[name].append(figures)
                print(seed, name, f"{rate(figures):.0f} tokens/CPU s", file=sys.stderr, flush=True)
    console = Console(width=110)
    console.print(make_table(runs_of), describe(runs_of[REFERENCES[0]]), sep="\n")
    if missing:
        console.print(f"skipped, not installed: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main()
