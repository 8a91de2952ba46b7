"""A run that is killed again and again ends with the bytes of one left in peace, and pays for nothing twice."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest

from tapir_exp.core.store import SIDECAR, TIMINGS

pytestmark = pytest.mark.slow

TINY = [
    "seeds.size=120",
    "curriculum.rows_per_round=60",
    "curriculum.rounds=2",
    "sft.seed_stage.max_tokens=12000",
    "sft.round_stage.max_tokens=6000",
    "sft.global_batch_size=8",
    "sft.save_steps=4",
    "student.max_new_tokens=24",
    "evals.problems_per_level=1",
    "logger=disabled",
]

PLACES = {
    "in the first fit, after a checkpoint": ("store/partial/student-*/checkpoints/step-*.ckpt", 1),
    "in generation": ("store/partial/answers-*", 1),
    "in judging": ("store/partial/verdicts-*", 1),
    "between two stages": (f"store/expansions/*/{SIDECAR}", 1),
    "in a round's fit, after a checkpoint": ("store/partial/student-*/checkpoints/step-*.ckpt", 1),
    "in the benchmark": (f"store/benchmark/*/{SIDECAR}", 2),
    "between two rounds": (f"store/verdicts/*/{SIDECAR}", 2),
    "in the report": ("runs/*/metrics.jsonl", 1),
}
"""Where the run is killed: as soon as so many paths match the pattern."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("undisturbed")
    assert start(outputs).wait() == 0
    return outputs


@dataclass(frozen=True)
class Toll:
    """What one process did: replies that came new into the cache, and calls that its finished stages paid."""

    answered: int
    paid: int


@dataclass(frozen=True)
class Disturbed:
    """A run that was killed at every place and then left to end; one toll a process."""

    outputs: Path
    tolls: list[Toll]


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> Disturbed:
    outputs = tmp_path_factory.mktemp("disturbed")
    counts = [(0, 0)]
    for pattern, count in PLACES.values():
        kill_when(start(outputs), outputs, pattern, count)
        counts.append((answered(outputs), paid_by_finished_stages(outputs)))
    assert start(outputs).wait() == 0
    counts.append((answered(outputs), paid_by_finished_stages(outputs)))
    return Disturbed(outputs, [Toll(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(counts)])


def test_the_artifacts_and_the_run_are_the_same_to_the_byte(undisturbed: Path, disturbed: Disturbed) -> None:
    assert digests(disturbed.outputs) == digests(undisturbed)


def test_no_answered_call_was_repeated(undisturbed: Path, disturbed: Disturbed) -> None:
    assert answered(disturbed.outputs) == answered(undisturbed)
    assert all(toll.paid <= toll.answered for toll in disturbed.tolls)
    assert disturbed.tolls[-1].paid == disturbed.tolls[-1].answered


def test_nothing_unfinished_is_left_behind(disturbed: Disturbed) -> None:
    assert list((disturbed.outputs / "store" / "partial").iterdir()) == []


def test_a_finished_run_does_nothing_again(disturbed: Disturbed) -> None:
    before = {path: path.stat().st_mtime_ns for path in sidecars(disturbed.outputs)}
    assert start(disturbed.outputs).wait() == 0
    assert {path: path.stat().st_mtime_ns for path in sidecars(disturbed.outputs)} == before


def start(outputs: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tapir_exp", f"outputs={outputs}", *TINY]
    log = (outputs / "log").open("ab")
    return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def kill_when(process: "subprocess.Popen[bytes]", outputs: Path, pattern: str, count: int) -> None:
    """SIGKILL the run at its place; a run that ends or hangs before it gets there fails the test."""
    deadline = time.monotonic() + 240
    while len(list(outputs.glob(pattern))) < count:
        assert process.poll() is None, f"the run ended before {pattern}: {(outputs / 'log').read_text()[-2000:]}"
        assert time.monotonic() < deadline, f"the run never came to {pattern}"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def sidecars(outputs: Path) -> Iterator[Path]:
    return (outputs / "store").glob(f"*/*/{SIDECAR}")


def digests(outputs: Path) -> dict[str, str]:
    """Every file of every artifact and the run's own figures; what holds seconds is left out."""
    kept = (path for sidecar in sidecars(outputs) for path in sidecar.parent.rglob("*"))
    found = [path for path in kept if path.name not in (SIDECAR, TIMINGS)]
    found += [path for name in ("manifest.json", "metrics.jsonl") for path in outputs.glob(f"runs/*/{name}")]
    files = (path for path in found if path.is_file())
    return {str(path.relative_to(outputs)): sha256(path.read_bytes()).hexdigest() for path in files}


def answered(outputs: Path) -> int:
    """Replies in the cache: what was answered and paid."""
    if not (outputs / "store" / "books.sqlite").exists():
        return 0
    with sqlite3.connect(outputs / "store" / "books.sqlite") as replies:
        return int(replies.execute("SELECT count(*) FROM replies").fetchone()[0])


def paid_by_finished_stages(outputs: Path) -> int:
    """Calls that the finished stages paid for themselves; the rest was paid by killed ones and came from the cache."""
    spends = [json.loads(path.read_text())["figures"].get("spend", {}) for path in sidecars(outputs)]
    return sum(spend["calls"] for by_role in spends for spend in by_role.values())
