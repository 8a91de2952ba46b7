"""Compare fine-tuning throughput: ours, bare PyTorch, Hugging Face's Trainer, and TRL's SFTTrainer.

    pip install trl==1.16.0 accelerate
    python benchmarks/sft/compare.py [--rows 128] [--repeats 3]

Each measurement is a fresh process with one thread, and the contenders take turns. Rates are real tokens (prompt and
response) per CPU second, which other load on the machine affects least.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from contenders import CONTENDERS
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
TRL = ("TRL SFTTrainer", "TRL SFTTrainer, packing")
BARE = ("bare loop, our batches", "bare loop, padded")


def measure(name: str, precision: str, rows: int, seed: int) -> dict[str, float]:
    """Run one contender in a fresh process and return its figures."""
    command = [sys.executable, "contenders.py", name, precision, str(rows), str(seed)]
    process = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    if process.returncode:
        raise SystemExit(f"{name}: {process.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return figures


def build_table(precision: str, results: dict[str, list[dict[str, float]]]) -> Table:
    """Return a table of the medians of each contender."""
    rates = {name: median(run["tokens"] / run["cpu"] for run in runs) for name, runs in results.items()}
    table = Table("contender", "tokens/CPU s", "of ours", "held-out loss", "peak MB", title=f"{precision}, medians")
    for name, runs in results.items():
        loss, memory = median(run["after"] for run in runs), median(run["memory"] for run in runs)
        share = f"{rates[name] / rates['ours']:.2f}"
        table.add_row(name, f"{rates[name]:.0f}", share, f"{loss:.3f}", f"{memory:.0f}")
    return table


def median_ratios(results: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Return our rate relative to the others, as medians of the ratios within a turn."""

    def ratio(others: tuple[str, ...]) -> float:
        turns = zip(*(results[name] for name in ("ours", *others)), strict=True)
        rates = [[run["tokens"] / run["cpu"] for run in turn] for turn in turns]
        return median(turn[0] / max(turn[1:]) for turn in rates)

    return {"the bare loops' best": ratio(BARE), "TRL's default": ratio(TRL[:1]), "TRL's best": ratio(TRL)}


def main() -> None:
    """Measure all contenders in turns and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    results: dict[str, dict[str, Any]] = {precision: defaultdict(list) for precision in ("fp32", "bf16")}
    for seed in range(arguments.repeats):
        for precision, runs in results.items():
            for name in CONTENDERS:
                runs[name].append(measure(name, precision, arguments.rows, seed))
                print(seed, precision, name, runs[name][-1], file=sys.stderr, flush=True)
    console = Console(width=100)
    for precision, runs in results.items():
        console.print(build_table(precision, runs))
        console.print(*(f"ours / {other}: {ratio:.2f}" for other, ratio in median_ratios(runs).items()), sep="\n")
    pairs = zip(results["bf16"]["ours"], results["fp32"]["ours"], strict=True)
    speedup = median((bf16["tokens"] / bf16["cpu"]) / (fp32["tokens"] / fp32["cpu"]) for bf16, fp32 in pairs)
    console.print(f"our bf16 / our fp32: {speedup:.2f}")


if __name__ == "__main__":
    main()
