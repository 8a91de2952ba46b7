"""A run that is killed and resumed ends with the bytes of an uninterrupted run, and pays for no call twice."""

import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import pytest
from preloaded import PreloadedProcess

from tapir_exp.core.store import SIDECAR, TIMINGS

pytestmark = pytest.mark.slow

TINY = ["debug=tiny", "seeds.size=120", "student.max_new_tokens=24"]

KILL_POINTS = {
    "in the first fit, after a checkpoint": ("store/partial/student-*/checkpoints/step-*.ckpt", 1),
    "in generation": ("store/partial/student_responses-*/unfinished_rows", 1),
    "in judging": ("store/partial/verdicts-*", 1),
    "between two stages": (f"store/expansions/*/{SIDECAR}", 1),
    "in a round's fit, after a checkpoint": ("store/partial/student-*/checkpoints/step-*.ckpt", 1),
    "in the benchmark": (f"store/benchmark/*/{SIDECAR}", 2),
    "between two rounds": (f"store/verdicts/*/{SIDECAR}", 2),
    "in the report": ("runs/*/metrics.jsonl", 1),
}
"""The run is killed as soon as this many paths match the pattern."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("uninterrupted")
    assert start(outputs).wait() == 0
    return outputs


@dataclass(frozen=True)
class ProcessCalls:
    """Calls of one process: new completions in the cache, and calls that its finished stages paid for."""

    cached: int
    paid: int


@dataclass(frozen=True)
class InterruptedRun:
    """A run that was killed at every point and then resumed to its end, with the calls of each process."""

    outputs: Path
    calls: list[ProcessCalls]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> InterruptedRun:
    outputs = tmp_path_factory.mktemp("interrupted")
    counts = [(0, 0)]
    for pattern, count in KILL_POINTS.values():
        kill_when(start(outputs), outputs, pattern, count)
        counts.append((cached(outputs), paid_by_finished_stages(outputs)))
    assert start(outputs).wait() == 0
    counts.append((cached(outputs), paid_by_finished_stages(outputs)))
    return InterruptedRun(outputs, [ProcessCalls(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(counts)])


def test_interrupted_run_has_the_same_bytes(uninterrupted: Path, interrupted: InterruptedRun) -> None:
    assert digests(interrupted.outputs) == digests(uninterrupted)


def test_no_paid_call_is_repeated(uninterrupted: Path, interrupted: InterruptedRun) -> None:
    assert cached(interrupted.outputs) == cached(uninterrupted)
    assert all(process.paid <= process.cached for process in interrupted.calls)
    assert interrupted.calls[-1].paid == interrupted.calls[-1].cached


def test_no_partial_artifact_remains(interrupted: InterruptedRun) -> None:
    assert list((interrupted.outputs / "store" / "partial").iterdir()) == []


def test_finished_run_is_not_repeated(interrupted: InterruptedRun) -> None:
    before = {path: path.stat().st_mtime_ns for path in sidecars(interrupted.outputs)}
    assert start(interrupted.outputs).wait() == 0
    assert {path: path.stat().st_mtime_ns for path in sidecars(interrupted.outputs)} == before


ROUND_2 = ("store/partial/student-*/checkpoints/step-*.ckpt", 1)
SETTINGS = {
    "one schedule, carried state": ["sft.lr_schedule=one", "sft.optimizer_state=carried"],
    "branch": ["sft.lr_schedule=wsd", "sft.judged_student=annealed", "sft.anneal_ratio=0.5", "sft.decay_ratio=0"],
    "each round from S_0, average of adapters": [
        *("sft.round_start=s0", "sft.method=lora", "sft.judged_student=average", "sft.average_checkpoints=3"),
        *("sft.lr_schedule=restart", "sft.optimizer_state=new"),
    ],
    "falling rate, half replayed, four tenths new": [
        *("sft.lr_schedule=falling", "sft.optimizer_state=new", "curriculum.replay=0.5", "curriculum.new_share=0.4"),
    ],
    "each round from the base, fresh gaps, easy rows dropped": [
        *("sft.round_start=base", "sft.lr_schedule=restart", "sft.optimizer_state=new"),
        *("curriculum.gap_rows=fresh", "curriculum.drop_easy_expansions=true", "curriculum.fresh_surplus=0.5"),
        "curriculum.report_trained_gaps=true",
    ],
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_interrupted_run_with_other_fits_has_the_same_bytes(settings: list[str], tmp_path: Path) -> None:
    """Each run is killed before and in the last fit, and where its settings add a stage."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for outputs in (whole, broken):
        outputs.mkdir()
    settings = [*settings, "seeds.size=60"]
    assert start(whole, *settings).wait() == 0
    points = [(f"store/train_mix/*/{SIDECAR}", 2), ROUND_2]
    if any("judged_student" in setting for setting in settings):
        points.insert(0, ("store/partial/judged_student-*", 1))
    if "curriculum.gap_rows=fresh" in settings:
        points[:0] = [("store/partial/*fresh_student_responses-*", 1), ("store/partial/*fresh_verdicts-*", 1)]
    for pattern, count in points:
        kill_when(start(broken, *settings), broken, pattern, count)
    assert start(broken, *settings).wait() == 0
    assert digests(broken) == digests(whole)


def start(outputs: Path, *overrides: str) -> PreloadedProcess:
    return PreloadedProcess([f"outputs={outputs}", *TINY, *overrides], stdout=outputs / "log")


def kill_when(process: PreloadedProcess, outputs: Path, pattern: str, count: int) -> None:
    """Kill the run when the pattern matches; a run that ends or hangs before fails the test."""
    deadline = time.monotonic() + 240
    while len(list(outputs.glob(pattern))) < count:
        assert process.poll() is None, f"the run ended before {pattern}: {(outputs / 'log').read_text()[-2000:]}"
        assert time.monotonic() < deadline, f"the run never reached {pattern}"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def sidecars(outputs: Path) -> Iterator[Path]:
    return (outputs / "store").glob(f"*/*/{SIDECAR}")


def digests(outputs: Path) -> dict[str, str]:
    """Return the digest of every file of the artifacts and of the run's figures, except files with durations."""
    artifacts = (path for sidecar in sidecars(outputs) for path in sidecar.parent.rglob("*"))
    paths = [path for path in artifacts if path.name not in (SIDECAR, TIMINGS)]
    paths += [path for name in ("manifest.json", "metrics.jsonl") for path in outputs.glob(f"runs/*/{name}")]
    files = (path for path in paths if path.is_file())
    return {str(path.relative_to(outputs)): sha256(path.read_bytes()).hexdigest() for path in files}


def cached(outputs: Path) -> int:
    """Return the number of completions in the cache, each paid for once."""
    if not (outputs / "store" / "calls.sqlite").exists():
        return 0
    with sqlite3.connect(outputs / "store" / "calls.sqlite") as replies:
        return int(replies.execute("SELECT count(*) FROM completions").fetchone()[0])


def paid_by_finished_stages(outputs: Path) -> int:
    """Return the calls that finished stages paid for; killed processes paid for the cached ones."""
    spends = [json.loads(path.read_text())["figures"].get("spend", {}) for path in sidecars(outputs)]
    return sum(spend["calls"] for by_role in spends for spend in by_role.values())
