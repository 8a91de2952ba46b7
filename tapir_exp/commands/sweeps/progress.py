"""Progress of a sweep in its terminal, read from the events of its jobs wherever they run."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event as Flag
from threading import Thread

from rich.cells import cell_len

from tapir_exp.core.console import console, print_stage
from tapir_exp.core.events import EVENTS, STATES, Event, Kind, State
from tapir_exp.core.yaml_files import read_yaml
from tapir_exp.report.sweep.plan_file import SweepPlan

POLL_S = 1.0
JOB_OVERRIDES = ".hydra/overrides.yaml"
ENDS = (State.FINISHED, State.FAILED, State.PRUNED)


@dataclass
class _Followed:
    """The events of one job, read up to a position."""

    path: Path
    overrides: list[str]
    position: int
    usd: float | None = 0.0


class SweepProgress:
    """Prints how many jobs have ended and how long the others may take, and the stages of jobs that run elsewhere.

    Args:
        sweep_dir: Directory of the sweep.
        remote: Whether the jobs write to no terminal, so that their stages are printed here.
    """

    def __init__(self, sweep_dir: Path, *, remote: bool) -> None:
        self._dir, self._remote = sweep_dir, remote
        self._jobs: dict[Path, _Followed] = {}
        self._ended: set[Path] = set()
        self._started = time.monotonic()
        self._stop = Flag()
        self._thread = Thread(target=self._run, daemon=True)
        # Events of earlier starts are no news.
        for job in self._new_jobs():
            job.position = job.path.stat().st_size if job.path.is_file() else 0

    def start(self) -> None:
        """Follow the jobs until `stop`, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Show what has happened since the last look, and end."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def update(self) -> None:
        """Print what is new."""
        for _ in self._new_jobs():
            pass
        for job in self._jobs.values():
            for event in _new_events(job):
                self._show(job, event)

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            self._update_if_possible()
        self._update_if_possible()

    def _update_if_possible(self) -> None:
        # Files may be half written, and what a terminal shows must not stop a sweep: the next look shows it.
        with suppress(Exception):
            self.update()

    def _new_jobs(self) -> Iterator[_Followed]:
        for path in self._dir.glob(f"*/{JOB_OVERRIDES}"):
            if path not in self._jobs:
                lines = read_yaml(path)
                if not lines:  # Hydra is writing it
                    continue
                self._jobs[path] = _Followed(path.parents[1] / EVENTS, [str(line) for line in lines], 0)
                yield self._jobs[path]

    def _show(self, job: _Followed, event: Event) -> None:
        kind = event["event"]
        if event.get("usd") is not None and kind == Kind.SPEND:
            job.usd = event["usd"]
        if self._remote and kind in (Kind.STAGE_FINISHED, Kind.STAGE_REUSED):
            with console.labelled(self._label(job)):
                figures, reused = event.get("figures") or {}, kind == Kind.STAGE_REUSED
                print_stage(event["stage"], figures, event.get("seconds") or 0.0, reused, job.usd)
        if STATES.get(kind) in ENDS:
            self._ended.add(job.path)
            figure = f"{event['figure']} {event['value']:.4g}" if event.get("value") is not None else ""
            self._print_end(job, " ".join(filter(None, [STATES[kind], figure, event.get("reason", "")])))

    def _print_end(self, job: _Followed, text: str) -> None:
        plan = SweepPlan.load(self._dir)
        left = plan.size - len(self._ended) - self._ended_before()
        if self._remote:
            console.print(f"{plan.label(job.overrides)}: {text}", soft_wrap=True)
        if left > 0:
            seconds = (time.monotonic() - self._started) * left / len(self._ended)
            console.print(
                f"{plan.size - left} of {plan.size} jobs ended; about {_duration(seconds)} left", soft_wrap=True
            )

    def _ended_before(self) -> int:
        """Return the number of jobs that ended in an earlier start and have not been started in this one."""
        return sum(job.path not in self._ended and _has_finished(job) for job in self._jobs.values())

    def _label(self, job: _Followed) -> str:
        label = SweepPlan.load(self._dir).label(job.overrides)
        return short_label(label, list(self._jobs.values()).index(job) + 1)


LABEL_WIDTH = 30
"""Columns of a line of output that the label of its job may take."""


def short_label(label: str, number: int) -> str:
    """Return a label that leaves room for a stage in 100 columns: the last parts of the keys, or the number."""
    short = " ".join(re.sub(r"^[^=]*[.@/]", "", part) for part in label.split(" "))
    return next((text for text in (label, short) if cell_len(text) <= LABEL_WIDTH), f"job {number}")


def _new_events(job: _Followed) -> Iterator[Event]:
    """Yield the events that a job has appended, up to its last whole line."""
    if not job.path.is_file():
        return
    with job.path.open("rb") as file:
        file.seek(job.position)
        text, newline, _ = file.read().rpartition(b"\n")
    job.position += len(text) + len(newline)
    for line in text.split(b"\n"):
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                yield event


def _has_finished(job: _Followed) -> bool:
    if not job.path.is_file():
        return False
    lines = job.path.read_bytes().rstrip().rpartition(b"\n")[2]
    return b'"run_finished"' in lines or b'"run_pruned"' in lines


def _duration(seconds: float) -> str:
    """Return a time in words, in the unit that fits."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
