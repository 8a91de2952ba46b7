"""Run one sweep under every launcher, whole and killed in the middle, and compare tables and artifacts byte for byte.

    python benchmarks/sweeps/launchers.py --out DIR [--launchers basic ray ...] [--seeds 3] [--only killed] [--full]

The sweep is `mfd_threshold` (five values of delta, three seeds) with `debug=tiny`, which makes its jobs small. With
`--full`, it is as its file says: 15 jobs of two to three minutes on one core. Each launcher runs it twice, in a store
of its own. The first run has no stop. In the second one, the process gets a SIGKILL when nearly half of the jobs have
finished and another one is training. Then the same command is run again. Tables, and the SHA-256 of the files of all
artifacts, are compared with those of the first run, or of `--reference`. Prints a Markdown table, writes it to
DIR/table.md, and exits with 1 if a check fails. A busy machine may be too slow for the start of Ray: start it first,
and give `--ray-address`.
"""

import argparse
import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from artifact_files import artifact_files, differing_artifacts

from tapir_exp.core.events import EVENTS, Event, Kind, State, outcome_of, read_events
from tapir_exp.llm.call_store import CALLS_FILE

LAUNCHERS = {"basic": None, "two_processes": "joblib", "submitit_local": "submitit", "ray": "ray"}
"""Launchers, each with the package that it needs."""
SWEEP = ("--config-name", "mfd_threshold", "sweep.name=launchers")
DELTAS = 5
TABLES = ("comparison.csv", "comparison.md", "comparison.svg")
COLUMNS: tuple[str, ...] = (
    "launcher",
    "run",
    "jobs",
    "seconds",
    "tables and files",
    "artifacts",
    "shared",
    "made twice",
    "calls",
    "completions",
)
COLUMNS += ("finished before", "skipped", "processes gone after")
MARK = "TAPIR_BENCHMARK_RUN"
"""Environment variable by which the processes of a run are found, whoever their parent is."""
POLL_S, PATIENCE_S, START_S = 0.2, 30.0, 3600.0


@dataclass(frozen=True)
class Counts:
    """What the journals of all jobs and the store contain about a sweep.

    Attributes:
        artifacts: Keys of the artifacts that were made.
        shared: Number of artifacts that several jobs used.
        made_twice: Number of artifacts that were made more than once.
        calls: Paid calls, in all attempts.
        completions: Completions in the store.
    """

    artifacts: frozenset[str]
    shared: int
    made_twice: int
    calls: int
    completions: int


@dataclass(frozen=True)
class Trial:
    """A sweep to be run.

    Attributes:
        launcher: Its launcher.
        run: `whole` or `killed`.
        outputs: Its outputs.
        seeds: Number of training seeds.
        full: Whether its jobs have the size of the sweep's file.
        ray_address: Address of a Ray that runs already; None if the sweep starts one.
    """

    launcher: str
    run: str
    outputs: Path
    seeds: int
    full: bool
    ray_address: str | None

    @property
    def command(self) -> list[str]:
        """Return its command line."""
        seeds = ",".join(str(number + 1) for number in range(self.seeds))
        words = [*SWEEP, f"seed={seeds}", f"launcher={self.launcher}", f"outputs={self.outputs}"]
        words += [] if self.full else ["debug=tiny"]
        if self.launcher == "ray" and self.ray_address:
            words.append(f"hydra.launcher.init.address={self.ray_address}")
        return [sys.executable, "-m", "tapir_exp", *words]

    @property
    def jobs(self) -> int:
        """Return its number of jobs."""
        return DELTAS * self.seeds


Reference = tuple[Path, Counts]
"""Outputs of the sweep that others are compared with, and its counts."""


@dataclass(frozen=True)
class Row:
    """One run of the sweep, and what is wrong with it."""

    cells: tuple[str, ...]
    problems: tuple[str, ...]


def main() -> int:
    """Run the sweep under each launcher, and return 1 if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="empty directory for the outputs of all runs")
    parser.add_argument("--launchers", nargs="+", choices=[*LAUNCHERS], default=[*LAUNCHERS])
    parser.add_argument("--only", choices=["whole", "killed"], help="run each launcher once")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds, with five jobs each")
    parser.add_argument("--full", action="store_true", help="run jobs of the size that the sweep's file gives")
    parser.add_argument("--reference", type=Path, help="outputs of an earlier run of the same sweep, to compare with")
    parser.add_argument("--ray-address", help="address of a Ray that runs already")
    options = parser.parse_args()
    if missing := [name for name in options.launchers if (needed := LAUNCHERS[name]) and find_spec(needed) is None]:
        parser.error(f"not installed: {', '.join(missing)}; pip install 'tapir-exp[ray,slurm]'")
    options.out.mkdir(parents=True)
    rows: list[Row] = []
    reference = None if options.reference is None else measured(options.reference)
    for launcher in options.launchers:
        for run in ("whole", "killed"):
            if options.only in (None, run):
                outputs = (options.out / f"{launcher}-{run}").resolve()
                trial = Trial(launcher, run, outputs, options.seeds, options.full, options.ray_address)
                row, counts = (run_whole if run == "whole" else run_killed)(trial, reference)
                rows.append(row)
                reference = reference or (outputs, counts)
                write(f"{' | '.join(row.cells)}\n{''.join(f'  PROBLEM: {text}{chr(10)}' for text in row.problems)}")
    table = "\n".join(["| " + " | ".join(line) + " |" for line in (COLUMNS, ["--:"] * len(COLUMNS), *rows_of(rows))])
    (options.out / "table.md").write_text(table + "\n", encoding="utf-8")
    write(f"\n{table}\n")
    return 1 if any(row.problems for row in rows) else 0


def measured(outputs: Path) -> Reference:
    """Return the sweep in the outputs of an earlier run."""
    return outputs, count(sweep_dir(outputs), outputs)


def run_whole(trial: Trial, reference: Reference | None) -> tuple[Row, Counts]:
    """Run the sweep without a stop."""
    started = time.monotonic()
    code = start(trial)[0].wait()
    seconds = time.monotonic() - started
    return check(trial, reference, seconds, [f"exit code {code}"] if code else [], ("–",) * 3)


def run_killed(trial: Trial, reference: Reference | None) -> tuple[Row, Counts]:
    """Kill the sweep in the middle of a job, wait until its processes have ended, and repeat the command."""
    began, directory = time.monotonic(), sweep_dir(trial.outputs)
    process, mark = start(trial)
    finished = wait_for_middle(process, directory, trial.jobs // 2)
    process.kill()
    killed, killed_at = time.monotonic(), time.time()
    process.wait()
    while (left := marked(mark)) and time.monotonic() - killed < PATIENCE_S:
        time.sleep(POLL_S)
    gone = time.monotonic() - killed
    problems = [f"{len(left)} processes after {gone:.0f} s: {left}"] if left else []
    code = start(trial)[0].wait()
    skipped = count_skipped(directory, killed_at)
    problems += [f"exit code {code}"] if code else []
    problems += [f"{finished} jobs had finished and {skipped} were skipped"] if skipped < finished else []
    seconds = time.monotonic() - began
    return check(trial, reference, seconds, problems, (str(finished), str(skipped), f"{gone:.1f} s"))


def check(
    trial: Trial, reference: Reference | None, seconds: float, problems: list[str], figures: Sequence[str]
) -> tuple[Row, Counts]:
    """Compare a finished sweep with the first one, and return its line of the table."""
    directory = sweep_dir(trial.outputs)
    counts = count(directory, trial.outputs)
    tables = "reference"
    if counts.made_twice:
        problems.append(f"{counts.made_twice} artifacts were made twice")
    if reference is not None:
        tables, found = compare(trial.outputs, counts, reference)
        problems += found
    cells: tuple[str, ...] = (trial.launcher, trial.run, str(trial.jobs), f"{seconds:.0f}", tables)
    cells += (str(len(counts.artifacts)), str(counts.shared), str(counts.made_twice))
    return Row((*cells, f"{counts.calls:,}", f"{counts.completions:,}", *figures), tuple(problems)), counts


def compare(outputs: Path, counts: Counts, reference: Reference) -> tuple[str, list[str]]:
    """Compare tables and artifacts with those of the reference; return the row of the table, and the problems."""
    first, second = sweep_dir(reference[0]), sweep_dir(outputs)
    tables = [name for name in TABLES if (first / name).read_bytes() != (second / name).read_bytes()]
    problems = [f"other bytes than {first}: {tables}"] if tables else []
    if counts.artifacts != reference[1].artifacts:
        problems.append(f"{len(counts.artifacts ^ reference[1].artifacts)} artifacts differ from the first run")
    if files := differing_artifacts(artifact_files(reference[0]), artifact_files(outputs)):
        problems.append(f"the files of {len(files)} artifacts differ: {', '.join(files)}")
    differing = [*tables, *([f"{len(files)} artifacts"] if files else [])]
    return f"differ: {', '.join(differing)}" if differing else "equal", problems


def start(trial: Trial) -> tuple["subprocess.Popen[bytes]", str]:
    """Start the sweep in a session of its own, and return it with the mark of its processes."""
    mark = uuid.uuid4().hex
    trial.outputs.mkdir(exist_ok=True)
    with (trial.outputs / "terminal.log").open("ab") as log:
        environment = {**os.environ, MARK: mark}
        process = subprocess.Popen(trial.command, env=environment, start_new_session=True, stdout=log, stderr=log)
    return process, mark


def wait_for_middle(process: "subprocess.Popen[bytes]", directory: Path, enough: int) -> int:
    """Wait until enough jobs have finished and another one is training; return the number of finished ones."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"the sweep ended by itself; see {directory}")
        streams = [events for _, events in journals(directory)]
        finished = sum(outcome_of(events).state is State.FINISHED for events in streams)
        if finished >= enough and any(is_training(events) for events in streams):
            return finished
        time.sleep(POLL_S)
    raise SystemExit(f"{enough} jobs did not finish within {START_S:.0f} s; see {directory}")


def is_training(events: Sequence[Event]) -> bool:
    """Return whether a job is in the middle of a fit."""
    return bool(events) and events[-1]["event"] == Kind.TRAINING_STEP


def journals(directory: Path) -> Iterator[tuple[str, list[Event]]]:
    """Yield the name and the events of each job of a sweep."""
    for path in sorted(directory.glob(f"*/{EVENTS}")):
        yield path.parent.name, read_events(path)


def count(directory: Path, outputs: Path) -> Counts:
    """Count artifacts and calls of a sweep, in the journals of its jobs and in its store."""
    made: Counter[str] = Counter()
    users: dict[str, set[str]] = defaultdict(set)
    for job, events in journals(directory):
        for event in events:
            if event["event"] in (Kind.STAGE_FINISHED, Kind.STAGE_REUSED):
                users[event["key"]].add(job)
            if event["event"] == Kind.STAGE_FINISHED:
                made[event["key"]] += 1
    with closing(sqlite3.connect(f"file:{outputs}/store/{CALLS_FILE}?mode=ro", uri=True)) as database:
        (calls,) = database.execute("SELECT coalesce(sum(calls), 0) FROM spend").fetchone()
        (completions,) = database.execute("SELECT count(*) FROM completions").fetchone()
    return Counts(
        frozenset(made),
        sum(len(jobs) > 1 for jobs in users.values()),
        sum(times > 1 for times in made.values()),
        calls,
        completions,
    )


def count_skipped(directory: Path, since: float) -> int:
    """Return the number of jobs that have not been started since a moment, in seconds since 1970."""
    starts = [
        [event["time"] for event in events if event["event"] == Kind.RUN_STARTED] for _, events in journals(directory)
    ]
    return sum(bool(times) and max(times) < since for times in starts)


def marked(mark: str) -> list[int]:
    """Return the running processes with a mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            has_mark = f"{MARK}={mark}".encode() in path.read_bytes()
            runs = path.with_name("stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            continue
        if has_mark and runs:
            found.append(int(path.parent.name))
    return found


def sweep_dir(outputs: Path) -> Path:
    """Return the directory of the sweep."""
    return outputs / "sweeps" / "launchers"


def rows_of(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the cells of all lines."""
    return [row.cells for row in rows]


def write(text: str) -> None:
    """Write a text at once, since a run takes minutes."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
