"""Answering side by side: Hugging Face's `generate`, our engines, and llama.cpp.

`python benchmarks/generate/compare.py [--prompts 128] [--repeats 3]`, with `pip install ctranslate2 xllamacpp gguf`
beside us; a contender that is not installed is left out, and named. Every measurement is a fresh process on one
thread; the contenders take turns. Rates are new tokens, the end of turn among them, by processor second, which other
load on the machine disturbs least.
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
"""Whose best is 1."""
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

Runs = dict[str, list[dict[str, Any]]]
"""What each contender measured, turn by turn."""


def measure(name: str, student: Path, prompts: int, seed: int) -> dict[str, Any] | None:
    """One contender's figures; None where its library is not installed."""
    command = [sys.executable, "contenders.py", name, str(student), str(prompts), str(seed)]
    done = subprocess.run(command, cwd=HERE, env={**os.environ, **THREADS}, capture_output=True, text=True, check=False)
    if done.returncode and ("ModuleNotFoundError" in done.stderr or "not installed" in done.stderr):
        return None
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def rate(run: dict[str, Any]) -> float:
    """New tokens by processor second."""
    return float(sum(map(len, run["answers"])) / run["cpu"])


def equal(run: dict[str, Any], reference: dict[str, Any]) -> int:
    """Prompts with the very tokens of the reference."""
    return sum(ours == theirs for ours, theirs in zip(run["answers"], reference["answers"], strict=True))


def table_of(found: Runs) -> Table:
    """Medians over the turns; the ratio is taken within a turn, against HF's best of that turn."""
    turns = range(len(found[REFERENCES[0]]))
    best = [max(rate(found[name][turn]) for name in REFERENCES) for turn in turns]
    columns = ("tokens/CPU s", "of HF's best", "tokens/s", "CPU s to be ready", "equal prompts")
    table = Table("contender", *columns, title="medians; the ratio's in turns; the fewest equal prompts of all turns")
    for name, runs in found.items():
        ratio = median(rate(run) / best[turn] for turn, run in enumerate(runs))
        wall = median(sum(map(len, run["answers"])) / run["wall"] for run in runs)
        ready = median(run["ready"] for run in runs)
        same = min(equal(run, found[REFERENCES[0]][turn]) for turn, run in enumerate(runs))
        total = len(runs[0]["answers"])
        cells = (f"{median(map(rate, runs)):.0f}", f"{ratio:.2f}", f"{wall:.0f}", f"{ready:.1f}", f"{same} of {total}")
        table.add_row(name, *cells)
    return table


def describe(runs: list[dict[str, Any]]) -> str:
    """What the answers are like."""
    lengths = [len(answer) for run in runs for answer in run["answers"]]
    return f"answers of {min(lengths)} to {max(lengths)} tokens, {sum(lengths) / len(lengths):.1f} in the mean"


def main() -> None:
    """Measure in turns and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), help="of the contenders, beside HF's")
    asked = parser.parse_args()
    found: Runs = defaultdict(list)
    missing: set[str] = set()
    with TemporaryDirectory() as folder:
        make_student(Path(folder))
        for seed in range(asked.repeats):
            for name in [*REFERENCES, *(name for name in asked.only if name not in REFERENCES)]:
                figures = measure(name, Path(folder), asked.prompts, seed)
                if figures is None:
                    missing.add(name)
                    continue
                found[name].append(figures)
                print(seed, name, f"{rate(figures):.0f} tokens/CPU s", file=sys.stderr, flush=True)
    console = Console(width=110)
    console.print(table_of(found), describe(found[REFERENCES[0]]), sep="\n")
    if missing:
        console.print(f"left out, since not installed: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main()
