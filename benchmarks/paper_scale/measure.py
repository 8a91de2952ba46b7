"""Start a run in a separate process, and measure the CPU time and the memory of each of its stages."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

sys.path.append(str(Path(__file__).parents[1]))
import local_endpoint

SAMPLE_S = 0.1
TICKS = os.sysconf("SC_CLK_TCK")
ROWS_PER_SEED = 23_333 / 52_002
"""Rows of a round for each seed, in the paper."""


@dataclass(frozen=True)
class Sample:
    """CPU seconds and resident megabytes of a process at a time."""

    time: float
    cpu: float
    rss_mb: float


@dataclass(frozen=True)
class StageCost:
    """Cost of a stage: wall and CPU seconds, and the largest memory while it ran, in MB."""

    name: str
    wall: float
    cpu: float
    peak_mb: float


def serving(latency_ms: float) -> AbstractContextManager[str]:
    """Start the endpoint, and yield its address."""
    return local_endpoint.serving(Path(__file__).with_name("endpoint.py"), f"--latency-ms={latency_ms}")


def answered(address: str) -> int:
    """Return the number of requests that the endpoint has answered."""
    with urlopen(f"{address}/count") as reply:
        return int(reply.read())


def start_run(
    outputs: Path, seeds: Path, count: int, address: str, overrides: Sequence[str]
) -> "subprocess.Popen[bytes]":
    """Start a run of two rounds on the seeds, with the lab's small student; its output goes to `outputs/log`."""
    outputs.mkdir(parents=True, exist_ok=True)
    roles = [
        setting
        for role in ("teacher", "judge", "classifier")
        for setting in (
            f"{role}=local_openai_compatible",
            f"{role}.llm.model=openai/m",
            f"{role}.llm.api_base={address}/v1",
            f"{role}.llm.concurrency=64",
        )
    ]
    settings = [
        f"outputs={outputs}",
        "seeds=file",
        f"seeds.path={seeds}",
        "seeds.decontamination.benchmarks=[]",
        "student=lab",
        "student.max_new_tokens=24",
        "sft=full",
        "sft.learning_rate=1e-3",
        "sft.seed_stage.epochs=null",
        "sft.seed_stage.max_tokens=20000",
        "sft.round_stage.epochs=null",
        "sft.round_stage.max_tokens=20000",
        "curriculum.rounds=2",
        f"curriculum.rows_per_round={round(ROWS_PER_SEED * count)}",
        "curriculum.new_share=null",
        "task_mix=tapir",
        "judge.max_unusable_responses=1",
        "evals=none",
        "logger=disabled",
    ]
    command = [sys.executable, "-m", "tapir_exp", *settings, *roles, *overrides]
    log = (outputs / "log").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def watch(process: "subprocess.Popen[bytes]", stop: Callable[[], bool] = lambda: False) -> list[Sample]:
    """Sample a process until it ends; kill it as soon as `stop` returns True."""
    samples = []
    while process.poll() is None:
        if (sample := _sample(process.pid)) is not None:
            samples.append(sample)
        if stop():
            process.kill()
        time.sleep(SAMPLE_S)
    return samples


def _sample(pid: int) -> Sample | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None
    cpu = (int(fields[11]) + int(fields[12])) / TICKS
    return Sample(time.time(), cpu, pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def events_of(outputs: Path) -> list[dict[str, object]]:
    """Return the events of all runs of a directory of outputs, oldest first."""
    files = sorted(outputs.glob("runs/*/events.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line.endswith("}")]


def stage_costs(outputs: Path, samples: Sequence[Sample]) -> list[StageCost]:
    """Return the cost of every stage that was made, and of the time between stages."""
    costs, started = [], {}
    last = samples[0].time
    between = 0.0
    for event in events_of(outputs):
        at, name = float(str(event["time"])), str(event.get("stage"))
        if event["event"] == "stage_started":
            started[name] = at
            if len(started) == 1:
                between += max(0.0, _cpu_at(samples, at) - _cpu_at(samples, last))
        elif event["event"] == "stage_finished" and name in started:
            begin = started.pop(name)
            of_stage = [sample.rss_mb for sample in samples if begin <= sample.time <= at + SAMPLE_S]
            cpu = _cpu_at(samples, at) - _cpu_at(samples, begin)
            costs.append(StageCost(name, at - begin, cpu, max(of_stage, default=0.0)))
            last = at
    end = samples[-1]
    between += end.cpu - _cpu_at(samples, last)
    peak = max(sample.rss_mb for sample in samples)
    total = StageCost("all", end.time - samples[0].time, end.cpu, peak)
    return [*costs, StageCost("between stages, report", total.wall - sum(c.wall for c in costs), between, peak), total]


def _cpu_at(samples: Sequence[Sample], at: float) -> float:
    return max((sample.cpu for sample in samples if sample.time <= at), default=0.0)


def disk_mb(outputs: Path) -> float:
    """Return the size of all files of a directory, in MB."""
    return sum(path.stat().st_size for path in outputs.rglob("*") if path.is_file()) / 1e6
