"""Measure what trackers cost: replay the events of a finished run with each tracker, and with none.

    tapir logger=disabled
    python benchmarks/trackers/overhead.py outputs/latest [--turns 3] [--trackers wandb mlflow tensorboard csv]

Each replay is a fresh process that has imported what a run imports. It writes curriculum, steps, metrics and report of
the run in a temporary directory. W&B is offline. The cost is the CPU time of the process and its children minus that of
a replay without trackers, as the median over turns. It is relative to the wall time of the run, which is about its CPU
time if the run used one thread.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from shutil import copyfile
from statistics import median
from tempfile import TemporaryDirectory

import yaml

from tapir_exp.config import LoggerConfig, TrackerKind, WandbMode
from tapir_exp.core.events import EVENTS, EventStream, Kind, outcome_of, read_events
from tapir_exp.core.manifest import Manifest
from tapir_exp.report.trackers.base import JobInfo
from tapir_exp.report.trackers.tracking import tracked

IMPORTED = ("tapir_exp.tapir", "pytorch_lightning", "transformers", "datasets", "aiohttp", "pandas")
"""Packages that a run has imported."""
REPORT = "report.html"


def main() -> None:
    """Replay the run in turns, and print a line for each set of trackers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = [kind.value for kind in TrackerKind]
    parser.add_argument("run", type=Path, help="directory of a finished run")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--trackers", nargs="*", choices=kinds, default=kinds)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    run = options.run.resolve()
    if options.one:
        print(json.dumps(replay(run, options.trackers)))
        return
    sets: list[list[str]] = [[], *([kind] for kind in options.trackers), options.trackers]
    found: list[list[float]] = [[] for _ in sets]
    for _ in range(options.turns):
        for index, trackers in enumerate(sets):
            found[index].append(replay_in_process(run, trackers))
    seconds = outcome_of(read_events(run / EVENTS)).seconds or float("nan")
    print(f"the run took {seconds:.0f} s\n\n| trackers | CPU s | more than none | of the run, % |\n|---|--:|--:|--:|")
    for trackers, times in zip(sets, found, strict=True):
        more = median(time - none for time, none in zip(times, found[0], strict=True))
        print(f"| {', '.join(trackers) or 'none'} | {median(times):.2f} | {more:.2f} | {100 * more / seconds:.2f} |")


def replay_in_process(run: Path, trackers: Sequence[str]) -> float:
    """Return the CPU seconds of a replay in a fresh process."""
    command = [sys.executable, __file__, str(run), "--one", "--trackers", *trackers]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def replay(run: Path, trackers: Sequence[str]) -> float:
    """Replay a run in this process, and return the CPU seconds that it and its children took."""
    for name in IMPORTED:
        import_module(name)
    events, settings = read_events(run / EVENTS), yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    store = (run / Manifest.load(run).store).resolve()
    with TemporaryDirectory() as folder:
        copyfile(run / REPORT, Path(folder) / REPORT)
        job = JobInfo("replayed", "replay", None, "train", (), settings, Path(folder), store, run)
        config = LoggerConfig(report_to=[TrackerKind(name) for name in trackers], mode=WandbMode.offline)
        stream, before = EventStream(None), cpu_seconds()
        with tracked(config, job, stream):
            for event in events:
                fields = {name: value for name, value in event.items() if name not in ("time", "event")}
                stream.record(Kind(event["event"]), **fields)
            running = cpu_seconds_of_children()
        return cpu_seconds() - before + running


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def cpu_seconds_of_children() -> float:
    """Return the CPU time of the children that are running, such as W&B's process, which is never waited for."""
    total = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


if __name__ == "__main__":
    main()
