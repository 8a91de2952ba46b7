"""Fine-tuning side by side: ours, bare PyTorch, Hugging Face's Trainer, and TRL's SFTTrainer.

`python benchmarks/sft/compare.py [--rows 128] [--repeats 3]`, with `pip install trl==1.16.0 accelerate` beside us.
Every measurement is a fresh process on one thread; the contenders take turns. Rates are real tokens, prompt and
response, by processor second, which other load on the machine disturbs least.
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
    """One contender's figures."""
    command = [sys.executable, "contenders.py", name, precision, str(rows), str(seed)]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def table_of(precision: str, found: dict[str, list[dict[str, float]]]) -> Table:
    """Medians of each contender beside ours."""
    rates = {name: median(run["tokens"] / run["cpu"] for run in runs) for name, runs in found.items()}
    table = Table("contender", "tokens/CPU s", "of ours", "held-out loss", "peak MB", title=f"{precision}, medians")
    for name, runs in found.items():
        loss, memory = median(run["after"] for run in runs), median(run["memory"] for run in runs)
        share = f"{rates[name] / rates['ours']:.2f}"
        table.add_row(name, f"{rates[name]:.0f}", share, f"{loss:.3f}", f"{memory:.0f}")
    return table


def bars(found: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Ours by the others, as medians of ratios within a turn."""

    def ratio(others: tuple[str, ...]) -> float:
        turns = zip(*(found[name] for name in ("ours", *others)), strict=True)
        rates = [[run["tokens"] / run["cpu"] for run in turn] for turn in turns]
        return median(turn[0] / max(turn[1:]) for turn in rates)

    return {"the bare loops' best": ratio(BARE), "TRL's default": ratio(TRL[:1]), "TRL's best": ratio(TRL)}


def main() -> None:
    """Measure in turns and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    found: dict[str, dict[str, Any]] = {kind: defaultdict(list) for kind in ("fp32", "bf16")}
    for seed in range(asked.repeats):
        for kind, runs in found.items():
            for name in CONTENDERS:
                runs[name].append(measure(name, kind, asked.rows, seed))
                print(seed, kind, name, runs[name][-1], file=sys.stderr, flush=True)
    console = Console(width=100)
    for kind, runs in found.items():
        console.print(table_of(kind, runs))
        console.print(*(f"ours by {whose}: {ratio:.2f}" for whose, ratio in bars(runs).items()), sep="\n")
    pairs = zip(found["bf16"]["ours"], found["fp32"]["ours"], strict=True)
    console.print(
        f"our bf16 by our fp32: {median((a['tokens'] / a['cpu']) / (b['tokens'] / b['cpu']) for a, b in pairs):.2f}"
    )


if __name__ == "__main__":
    main()
