"""A sweep from its first job to its last table: the lock, the states of its jobs, its page, and its exit code."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from tapir_exp.commands.sweeps.progress import SweepProgress
from tapir_exp.core.console import console, print_warning
from tapir_exp.core.disk import RESUME, DiskError, explain_disk_error, find_disk_error
from tapir_exp.core.errors import TapirError
from tapir_exp.core.events import EVENTS, Outcome, State, outcome_of, read_events
from tapir_exp.core.yaml_files import read_yaml
from tapir_exp.report.sweep.plan_file import SweepPlan

LOCK, PAGE_LOCK, OWNER = ".lock", ".page.lock", ".owner"
JOB_OVERRIDES = ".hydra/overrides.yaml"
SETTLED = (State.FINISHED, State.PRUNED)
"""States of a job that is not run again."""
COLUMNS = ("job", "state", "figure", "seconds", "spend", "reason")
PAGE_SHARE = 10
"""A page that took t seconds is written again after this many t at the earliest."""
PagePath = Callable[[Path], Path]
"""Writes the page of a sweep and returns its path."""


@dataclass(frozen=True)
class JobLine:
    """One line of the table of a sweep."""

    label: str
    outcome: Outcome

    @property
    def cells(self) -> tuple[str, ...]:
        """Return the texts of the line, in the order of `COLUMNS`."""
        done = self.outcome
        figure = "–" if done.value is None else f"{done.figure} {done.value:.4g}"
        seconds = "–" if done.seconds is None else f"{done.seconds:.1f}"
        return self.label, str(done.state), figure, seconds, format_usd(done.usd, done.calls), first_line(done.reason)


class SweepSession:
    """A sweep that this process has started. Only one process at a time may run a sweep.

    Args:
        directory: Directory of the sweep.
        plan: Its jobs.
        write_page: Writes its page from the jobs that are there.
        remote: Whether its jobs write to no terminal, so that their stages are shown here.

    Raises:
        TapirError: If another process runs the sweep.
    """

    def __init__(self, directory: Path, plan: SweepPlan, write_page: PagePath, *, remote: bool = False) -> None:
        self.directory, self.plan, self._write_page = directory, plan, write_page
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(directory / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise TapirError(
                f"{directory} is in use by {_owner(directory)}: one process at a time runs a sweep. Watch its page, "
                "wait for its end, or stop that process; another sweep.name starts another sweep."
            ) from None
        (directory / OWNER).write_text(f"process {os.getpid()} on {socket.gethostname()}")
        plan.write(directory)
        self._progress = SweepProgress(directory, remote=remote)
        self._progress.start()

    def finish(self, *, stopped: bool = False) -> None:
        """Print the table of the jobs and the path of the page, and release the lock.

        Args:
            stopped: Whether the sweep is ended by an interrupt, so that problems with the page are only printed.

        Raises:
            TapirError: If a job has failed, or did not run.
        """
        try:
            self._progress.stop()
            plan = SweepPlan.load(self.directory)  # a search has added its jobs
            lines = job_lines(self.directory, plan if plan.jobs else self.plan)
            if (full := find_disk_error(self.directory)) is not None:
                # The end of a job has no line in its journal then.
                lines = explain_open_jobs(lines, full, None if stopped else State.FAILED)
            if stopped:
                console.print()  # the terminal has written ^C at the start of this line
            print_job_table(lines)
            problem = self._finish_page()
        finally:
            self._lock.release()
        if stopped:
            return
        if problem is not None:
            raise problem
        if open_jobs := [line for line in lines if line.outcome.state not in SETTLED]:
            raise TapirError(describe_failures(open_jobs, len(lines)))

    def _finish_page(self) -> Exception | None:
        """Write the page, print its path, and return what prevented it."""
        try:
            page = self._write_page(self.directory)
        except Exception as error:
            problem = explain_disk_error(error) or error
            print_warning(f"The page of the sweep cannot be written: {problem}")
            return problem
        console.print(f"page: {page}", soft_wrap=True)
        return None


def job_lines(sweep_dir: Path, plan: SweepPlan) -> list[JobLine]:
    """Return the state of each job of a sweep, in the order of the jobs.

    A job without an end has been stopped or killed: this is for the process that runs the sweep, at its end.
    """
    outcomes = {}
    for path in sweep_dir.glob(f"*/{JOB_OVERRIDES}"):
        events = read_events(path.parents[1] / EVENTS)
        outcomes[tuple(read_yaml(path) or ())] = outcome_of(events)
    lines = []
    for overrides in plan.jobs:
        outcome = outcomes.get(tuple(overrides), Outcome())
        if outcome.state is State.RUNNING:
            outcome = Outcome(State.STOPPED, seconds=outcome.seconds, calls=outcome.calls, usd=outcome.usd)
        lines.append(JobLine(plan.label(overrides), outcome))
    return lines


def explain_open_jobs(lines: Sequence[JobLine], error: DiskError, state: State | None = None) -> list[JobLine]:
    """Return the lines with the reason of those that are open without one.

    Args:
        lines: Lines of a sweep.
        error: The reason.
        state: Their new state; None keeps it.
    """
    reason, explained = str(error).removesuffix(RESUME).strip(), []
    for line in lines:
        done = line.outcome
        if done.state not in SETTLED and not done.reason:
            line = JobLine(line.label, replace(done, state=state or done.state, reason=reason))
        explained.append(line)
    return explained


def print_job_table(lines: Sequence[JobLine]) -> None:
    """Print one line for each job; no cell is cut to the width of the terminal."""
    rows = [COLUMNS, *(line.cells for line in lines)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(COLUMNS) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        console.print("  ".join([*cells, row[-1]]).rstrip(), soft_wrap=True)


def describe_failures(failed: Sequence[JobLine], jobs: int) -> str:
    """Return the sentence that ends a sweep with failures; it names each of them."""
    reasons = [first_line(line.outcome.reason).removesuffix(".") for line in failed]
    states = [f"{line.outcome.state}{reason and f': {reason}'}" for line, reason in zip(failed, reasons, strict=True)]
    names = "; ".join(f"{line.label} ({state})" for line, state in zip(failed, states, strict=True))
    return f"{len(failed)} of {jobs} jobs did not finish: {names}. Repeat the command to run them; the others are kept."


def update_page(sweep_dir: Path, write_page: PagePath) -> None:
    """Write the page of a sweep that is still running, unless another job writes it or has written it just now."""
    if time.monotonic() < _page_due[0]:
        return
    started = time.monotonic()
    try:
        with FileLock(sweep_dir / PAGE_LOCK, timeout=0):
            write_page(sweep_dir)
    except Timeout:
        return
    except Exception as error:  # the page at the end of the sweep reports it again, as an error
        print_warning(f"The page of the sweep cannot be written yet: {type(error).__name__}: {error}")
    _page_due[0] = time.monotonic() + PAGE_SHARE * (time.monotonic() - started)


_page_due = [0.0]


def format_usd(usd: float | None, calls: int) -> str:
    """Return a spend; a dash without a paid call."""
    if not calls:
        return "–"
    return "unknown" if usd is None else f"${usd:.4f}" if usd < 1 else f"${usd:,.2f}"


def first_line(text: str) -> str:
    """Return the first line of a message, and of a list of mistakes its first mistake."""
    lines = text.splitlines() or [""]
    return f"{lines[0]} {lines[1].strip()}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]


def _owner(directory: Path) -> str:
    try:
        return (directory / OWNER).read_text()
    except OSError:
        return "another process"
