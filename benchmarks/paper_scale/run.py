"""Run the whole loop at several sizes against a fast local endpoint, and print the cost and the growth of each stage.

`python benchmarks/paper_scale/run.py [--sizes 2000 10000 52002] [--kill] [--folder DIR] [OVERRIDE ...]`

The seeds are varied texts, the endpoint replies after 2 ms, and the student is the lab's, which costs little. Rounds
have 0.449 rows a seed, as in the paper. Wall and CPU seconds and the peak of memory are those of the run's process.
The exponent is the slope of log cost over log size between the smallest and the largest size: 1 is linear.

`--kill` kills a run with SIGKILL in the middle of each long stage, at the first size, and starts it again. It prints
the calls that the endpoint answered and no store has, and the rows that the next start finds. Each start also sends
calls that check the endpoints, which no store has either.
"""

import argparse
import json
import math
import sqlite3
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import Sample, StageCost, answered, disk_mb, events_of, serving, stage_costs, start_run, watch
from varied_seeds import write_seeds

from tapir_exp.core.stored_rows import UNFINISHED

LONG_STAGES = (
    "task_labels",
    "teacher_responses",
    "student_responses-0",
    "verdicts-0",
    "expansions-1",
    "train_mix-1",
    "student_responses-1",
)
CONTENTS = ("rows.jsonl", "dropped.jsonl", "model.safetensors")
LEAST_S = 2.0
"""CPU seconds below which a stage has no exponent: its cost is that of starting."""


def main() -> None:
    """Measure every size, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 10_000, 52_002])
    parser.add_argument("--latency-ms", type=float, default=2)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--folder", type=Path)
    arguments, overrides = parser.parse_known_args()
    with TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.kill:
            kill_in_every_stage(folder, arguments.sizes[0], arguments.latency_ms, overrides)
            return
        costs = {size: measure(folder, size, arguments.latency_ms, overrides) for size in sorted(arguments.sizes)}
    print_growth(costs)


def measure(folder: Path, size: int, latency_ms: float, overrides: Sequence[str]) -> list[StageCost]:
    """Run the loop on `size` seeds and again when it is finished; print the costs and return them."""
    seeds, outputs = prepare(folder, size)
    with serving(latency_ms) as address:
        costs = stage_costs(outputs, finish(start_run(outputs, seeds, size, address, overrides), outputs))
        calls = answered(address)
        again = finish(start_run(outputs, seeds, size, address, overrides), outputs)
    print(f"\n{size} seeds: {calls} calls, {disk_mb(outputs):.0f} MB on the disk")
    for cost in costs:
        print(f"  {cost.name:28s} {cost.wall:9.1f} s wall {cost.cpu:9.1f} s CPU {cost.peak_mb:7.0f} MB")
    wall = again[-1].time - again[0].time
    print(f"  {'the finished run once more':28s} {wall:9.1f} s wall {again[-1].cpu:9.1f} s CPU", flush=True)
    return costs


def prepare(folder: Path, size: int) -> tuple[Path, Path]:
    """Write the seeds, and return their path and the directory of the outputs."""
    seeds = folder / f"seeds-{size}.jsonl"
    write_seeds(seeds, size)
    return seeds, folder / f"outputs-{size}"


def finish(process: "subprocess.Popen[bytes]", outputs: Path) -> list[Sample]:
    """Wait for the end of a run, and return its samples."""
    samples = watch(process)
    if process.returncode:
        raise SystemExit(f"The run failed:\n{(outputs / 'log').read_text()[-3000:]}")
    return samples


def print_growth(costs: dict[int, list[StageCost]]) -> None:
    """Print the exponents of CPU time and memory between the smallest and the largest size."""
    small, large = min(costs), max(costs)
    if small == large:
        return
    print(f"\nGrowth from {small} to {large} seeds: exponent of CPU time, and MB of memory for 1,000 more seeds")
    first = {cost.name: cost for cost in costs[small]}
    for cost in costs[large]:
        before = first.get(cost.name)
        if before is None or cost.cpu < LEAST_S:
            continue
        exponent = math.log(cost.cpu / max(before.cpu, 0.01)) / math.log(large / small)
        memory = (cost.peak_mb - before.peak_mb) / (large - small) * 1000
        print(f"  {cost.name:28s} {exponent:6.2f} {memory:8.2f} MB")


def kill_in_every_stage(folder: Path, size: int, latency_ms: float, overrides: Sequence[str]) -> None:
    """Kill a run in the middle of each long stage, and print what is lost."""
    seeds, outputs = prepare(folder, size)
    with serving(latency_ms) as address:
        finish(start_run(outputs, seeds, size, address, overrides), outputs)
        whole = answered(address)
    halves = half_times(outputs)
    broken = folder / f"broken-{size}"
    with serving(latency_ms) as address:
        for stage in LONG_STAGES:
            watch(start_run(broken, seeds, size, address, overrides), Stop(broken, stage, halves[stage]))
            lost = answered(address) - stored_calls(broken)
            print(f"killed in {stage:24s} {lost:4d} answered calls in no store so far; {kept_rows(broken)}", flush=True)
        finish(start_run(broken, seeds, size, address, overrides), broken)
        print(f"{answered(address) - whole} calls more than the {whole} of a run without kills")
    same = contents(outputs) == contents(broken)
    print(f"rows and weights of both runs are {'the same' if same else 'NOT the same'} byte for byte")


def half_times(outputs: Path) -> dict[str, float]:
    """Return half the wall seconds of every stage of a finished run; verdicts come while the student responds."""
    seconds = {
        str(event["stage"]): float(str(event["seconds"]))
        for event in events_of(outputs)
        if event["event"] == "stage_finished"
    }
    return {stage: seconds[stage] / 2 for stage in seconds}


class Stop:
    """Decide whether a stage has run for its half time."""

    def __init__(self, outputs: Path, stage: str, after_s: float) -> None:
        self._outputs, self._stage, self._after_s = outputs, stage, after_s

    def __call__(self) -> bool:
        """Return whether to kill the run now."""
        return any(
            event["event"] == "stage_started"
            and event.get("stage") == self._stage
            and time.time() - float(str(event["time"])) > self._after_s
            for event in events_of(self._outputs)
        )


def stored_calls(outputs: Path) -> int:
    """Return the number of completions on the disk."""
    with sqlite3.connect(outputs / "store" / "calls.sqlite") as store:
        counts = (store.execute(f"SELECT count(*) FROM {table}").fetchone() for table in ("replies", "completions"))
        return sum(int(count) for (count,) in counts)


def kept_rows(outputs: Path) -> str:
    """Return what unfinished artifacts hold, in words."""
    logs = {
        path.parent.name.partition("-")[0]: len(path.read_bytes().splitlines())
        for path in outputs.glob(f"store/partial/*/{UNFINISHED}")
    }
    kept = ", ".join(f"{rows} rows of {stage}" for stage, rows in logs.items() if rows)
    return f"kept: {kept or 'finished stages and calls'}"


def contents(outputs: Path) -> dict[str, list[list[str]]]:
    """Return the SHA-256 of the rows and weights of every artifact, by stage.

    Keys and provenance are left out: they hold the port of the endpoint, which differs between the runs.
    """
    files: defaultdict[str, list[list[str]]] = defaultdict(list)
    for path in outputs.glob("store/*/*/artifact.json"):
        sidecar = json.loads(path.read_text())
        files[sidecar["stage"]].append([sidecar["files"][name] for name in CONTENTS if name in sidecar["files"]])
    return {stage: sorted(digests) for stage, digests in files.items()}


if __name__ == "__main__":
    main()
