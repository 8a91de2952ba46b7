"""Plan every sweep of `sweeps/`, and write jobs, calls, USD and GPU hours into the comment at its head.

    python benchmarks/sweeps/plans.py [--check] [SWEEP ...]

Sweeps on Alpaca are planned on 52,002 made-up rows. They have the mean length of a uniform sample of Alpaca (9,229
rows): 82 characters of instruction and 273 of response. `--check` changes no file, and exits with 1 if a comment is out
of date.
"""

import argparse
import io
import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from tapir_exp.commands.plan import main as plan

SWEEPS = Path(__file__).parents[2] / "sweeps"
ALPACA_ROWS, INSTRUCTION_CHARS, RESPONSE_CHARS = 52_002, 82, 273
START = "# Plan: "


def main() -> int:
    """Plan the named sweeps, or all with a line for the plan; return 1 if a comment is out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", nargs="*")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = []
    with tempfile.TemporaryDirectory() as directory:
        alpaca = write_alpaca_like(Path(directory) / "alpaca.jsonl")
        for path in sorted(SWEEPS.glob("*.yaml")):
            text = path.read_text(encoding="utf-8")
            if START not in text or (options.sweep and path.stem not in options.sweep):
                continue
            line = describe(plan_of(path.stem, text, alpaca, Path(directory)))
            new = "\n".join(line if old.startswith(START) else old for old in text.split("\n"))
            sys.stdout.write(f"{path.stem}: {line}\n")
            sys.stdout.flush()
            stale += [path.stem] if new != text else []
            if not options.check:
                path.write_text(new, encoding="utf-8")
    return 1 if options.check and stale else 0


def write_alpaca_like(path: Path, rows: int = ALPACA_ROWS) -> Path:
    """Write rows with the lengths of Alpaca's, and return the path."""
    with path.open("w", encoding="utf-8") as lines:
        for number in range(rows):
            instruction = f"{number} ".ljust(INSTRUCTION_CHARS, "i")
            lines.write(json.dumps({"instruction": instruction, "output": "r" * RESPONSE_CHARS}) + "\n")
    return path


def plan_of(name: str, text: str, alpaca: Path, outputs: Path) -> dict[str, Any]:
    """Return the plan of a sweep, in an empty directory of outputs."""
    paper = "override experiment:" in text
    seeds = ["seeds=file", f"seeds.path={alpaca}", "seeds.decontamination.benchmarks=[]"] if paper else []
    with redirect_stdout(io.StringIO()) as out:
        plan(["--config-name", name, *seeds, f"outputs={outputs / 'none'}", "--json"])
    found: dict[str, Any] = json.loads(out.getvalue())
    return found


def describe(planned: dict[str, Any]) -> str:
    """Return the line of a plan."""
    total = planned["total"]
    judged = sum(stage["calls"] for stage in planned["stages"] if stage["stage"].startswith(("alpaca-", "mt-")))
    calls = f"{total['calls']:,.0f} calls{f' ({judged:,.0f} by judges of benchmarks)' if judged else ''}"
    usd = "USD unknown" if total["usd"] is None else f"{total['usd']:,.0f} USD"
    hours = "no GPU" if total["gpu_hours"] is None else f"{total['gpu_hours']:,.0f} A100 hours"
    return f"{START}{planned['jobs']} jobs, about {calls}, {usd}, {hours}."


if __name__ == "__main__":
    sys.exit(main())
