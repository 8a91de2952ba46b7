"""Compare the estimate of `tapir plan` with what a run spends, stage by stage, for three very different settings.

    python benchmarks/plan/planned_and_spent.py [--seeds 500] [--latency-ms 20] [--folder DIR] [SETTING ...]

- `lab`: the lab's simulated models, whose replies are short, and which are asked many equal questions.
- `own_data`: a file in which a third of the rows has no response, one endpoint for all roles, and held-out rows.
- `paper`: the paper's target mix and rounds of 0.449 rows a seed, with 64 calls in flight.

The last two ask the endpoint of `benchmarks/paper_scale`, whose replies have other lengths than the seeds. They are
also planned with `--probe 20`, in a directory of its own. The labels and responses of 20 rows are then cached, and no
part of that plan. The student is the lab's, which costs little. Wall times need an idle machine.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "paper_scale"))
from local_endpoint import serving
from measure import ROWS_PER_SEED
from varied_seeds import seed_rows

from tapir_exp.core.events import EVENTS, Kind, read_events

ENDPOINT = Path(__file__).parents[1] / "paper_scale" / "endpoint.py"
PROBED = 20
PRICES = ("usd_per_million_input=2.5", "usd_per_million_output=10")
"""Prices of the endpoint, so that a plan in USD can be compared, too."""
SMALL = (
    "logger=disabled",
    "curriculum.rounds=2",
    "student.max_new_tokens=24",
    "sft.seed_stage.epochs=null",
    "sft.seed_stage.max_tokens=8000",
    "sft.round_stage.epochs=null",
    "sft.round_stage.max_tokens=8000",
    "judge.max_unusable_responses=1",
)
Figures = Mapping[tuple[str, str], Mapping[str, float]]


def main() -> None:
    """Plan and run the settings, and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", default=["lab", "own_data", "paper"])
    parser.add_argument("--seeds", type=int, default=500)
    parser.add_argument("--latency-ms", type=int, default=20, help="latency of the endpoint")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with TemporaryDirectory() as temporary, serving(ENDPOINT, f"--latency-ms={options.latency_ms}") as address:
        folder = options.folder or Path(temporary)
        for name in options.settings:
            compare(name, folder / name, options.seeds, address)


def compare(name: str, folder: Path, seeds: int, address: str) -> None:
    """Plan and run a setting, and print its table."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = [*overrides(name, folder, seeds, address), *SMALL]
    planned = plan([*arguments, f"outputs={folder / 'outputs'}"])
    probed = None
    if name != "lab":
        probed = plan([*arguments, f"outputs={folder / 'probe'}", "--probe", f"{PROBED}"])
    started = time.monotonic()
    tapir([*arguments, f"outputs={folder / 'outputs'}"], folder / "log")
    took = time.monotonic() - started
    (spend,) = (folder / "outputs" / "runs").glob("*/spend.json")
    stages = json.loads(spend.read_text())["stages"]
    spent = {(stage, role): figures for stage, roles in stages.items() for role, figures in roles.items()}
    print(f"\n### {name}\n")
    print_table(planned, probed, spent)
    print_times(planned, probed, seconds_of_stages(spend.parent))
    print(f"\nThe run took {took:.0f} s with its start and its report.", flush=True)


def overrides(name: str, folder: Path, seeds: int, address: str) -> list[str]:
    """Return the settings of a run."""
    if name == "lab":
        return [f"seeds.size={seeds}", f"curriculum.rows_per_round={seeds}", "evals.problems_per_level=1"]
    path = folder / "seeds.jsonl"
    rows = list(seed_rows(seeds))
    if name == "own_data":
        rows = [row | ({} if number % 3 else {"output": ""}) for number, row in enumerate(rows)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    model = ("model=openai/m", f"api_base={address}/v1", *PRICES)
    if name == "own_data":
        return [
            "experiment=own_data",
            f"seeds.path={path}",
            *("teacher=local_openai_compatible", *(f"teacher.llm.{part}" for part in model)),
            *("student=lab", "sft=full", "sft.learning_rate=1e-3", "judge.check=20", "evals.held_out_size=20"),
        ]
    roles = ("teacher", "judge", "classifier")
    return [
        *("seeds=file", f"seeds.path={path}", "seeds.decontamination.benchmarks=[]", "task_mix=tapir", "evals=none"),
        *("student=lab", "sft=full", "sft.learning_rate=1e-3"),
        f"curriculum.rows_per_round={round(ROWS_PER_SEED * seeds)}",
        *(f"{role}=local_openai_compatible" for role in roles),
        *(f"{role}.llm.{part}" for role in roles for part in (*model, "concurrency=64")),
    ]


def plan(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the plan of a run."""
    found: dict[str, Any] = json.loads(tapir(["plan", "--json", *arguments]))
    return found


def tapir(arguments: Sequence[str], log: Path | None = None) -> str:
    """Run the command and return its output; its messages go to a log."""
    with (log or Path(os.devnull)).open("ab") as messages:
        return subprocess.run(
            [sys.executable, "-m", "tapir_exp", *arguments],
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ).stdout


def print_table(planned: Mapping[str, Any], probed: Mapping[str, Any] | None, spent: Figures) -> None:
    """Print calls, tokens and USD of every stage: planned, by the probe, spent, and at most."""
    parts = ("planned", "by the probe", "spent", "≤") if probed else ("planned", "spent", "≤")
    heads = [f"{unit} {part}" for unit in ("calls", "tokens", "USD") for part in parts]
    print(f"| stage | role | {' | '.join(heads)} |\n|---|---|{'--:|' * len(heads)}")
    stages = [stage for stage in planned["stages"] if stage["most"]["calls"]]
    of_probe = {(stage["stage"], stage["role"]): stage for stage in (probed or planned)["stages"]}
    total = {name: sum(figures[name] or 0 for figures in spent.values()) for name in ("calls", "usd")}
    total["tokens"] = sum(tokens(figures) for figures in spent.values())
    for stage in stages:
        key = stage["stage"], stage["role"]
        print_row(" | ".join(key), stage, of_probe.get(key) if probed else None, spent.get(key, {}))
    print_row("**all** | ", planned["total"], None if probed is None else probed["total"], total)


def seconds_of_stages(run: Path) -> dict[str, float]:
    """Return the wall time of each stage of a run."""
    return {
        event["stage"]: event["seconds"] for event in read_events(run / EVENTS) if event["event"] == Kind.STAGE_FINISHED
    }


def print_times(planned: Mapping[str, Any], probed: Mapping[str, Any] | None, took: Mapping[str, float]) -> None:
    """Print the wall time of every stage of at least a second: planned, by the probe, taken, at most."""
    plans = [planned] if probed is None else [planned, probed]
    columns = [
        *([seconds_by_stage(of_plan, most=False) for of_plan in plans]),
        took,
        seconds_by_stage(planned, most=True),
    ]
    heads = ["s planned", *(["by the probe"] if probed else []), "taken", "≤"]
    print(f"\n| stage | {' | '.join(heads)} |\n|---|{'--:|' * len(heads)}")
    stages = [
        name for name in seconds_by_stage(planned, most=False) if any(of.get(name, 0) >= 1 for of in columns[:-1])
    ]
    for name in stages:
        print(f"| {name} | {' | '.join(f'{of.get(name, 0.0):,.1f}' for of in columns)} |")
    known = seconds_by_stage(planned, most=False).keys()
    totals = [sum(seconds for name, seconds in of.items() if name in known) for of in columns]
    print(f"| **all** | {' | '.join(f'{seconds:,.1f}' for seconds in totals)} |")


def seconds_by_stage(of_plan: Mapping[str, Any], *, most: bool) -> dict[str, float]:
    """Return the wall time of each stage by a plan: expected, or at most."""
    found: dict[str, float] = {}
    for stage in of_plan["stages"]:
        seconds = (stage["most"] if most else stage)["seconds"]
        found[stage["stage"]] = found.get(stage["stage"], 0.0) + seconds
    return found


def print_row(
    name: str, planned: Mapping[str, Any], probed: Mapping[str, Any] | None, spent: Mapping[str, float]
) -> None:
    """Print a row of a table."""
    cells = []
    for unit in ("calls", "tokens", "usd"):
        plans = [planned] if probed is None else [planned, probed]
        amounts = [amount(of_plan, unit) for of_plan in plans]
        form = "{:,.2f}" if unit == "usd" else "{:,.0f}"
        cells += [form.format(number) for number in (*amounts, amount(spent, unit), amount(planned["most"], unit))]
    print(f"| {name} | {' | '.join(cells)} |")


def amount(figures: Mapping[str, Any], unit: str) -> float:
    """Return calls, tokens or USD."""
    found = figures.get(unit, 0.0)
    return tokens(figures) if unit == "tokens" and unit not in figures else float(found or 0.0)


def tokens(figures: Mapping[str, Any]) -> float:
    """Return prompt plus completion tokens."""
    return float(figures.get("prompt_tokens", 0) + figures.get("completion_tokens", 0))


if __name__ == "__main__":
    main()
