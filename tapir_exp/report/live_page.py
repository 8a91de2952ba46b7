"""The page of a run in progress: `report.html` from its first stage on, until the report replaces it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tapir_exp.core.events import Event, Kind, Pruned, State, reading_events
from tapir_exp.core.store import write_text_atomic
from tapir_exp.report import charts
from tapir_exp.report.templates import REPORT, render, student_name

INTERVAL_S = 3.0
"""Least time between two writings of the page."""
DONE = {Kind.STAGE_FINISHED: "done", Kind.STAGE_REUSED: "reused", Kind.STAGE_FAILED: "failed"}
FIGURES = {
    "α": "curriculum/alpha",
    "rows": "mix/rows",
    "loss": "train/final_loss",
    "mean gap": "gap/mean",
    "hard share": "gap/hard_share",
    "accuracy": "benchmark/accuracy",
}
"""Columns of the table of students, each with its metric."""


@dataclass
class StageLine:
    """A stage: running, done, reused or failed."""

    name: str
    state: str = "running"
    seconds: float | None = None
    rows: int | None = None


@dataclass
class LivePage:
    """Collects the events of a run and writes them as a page.

    Attributes:
        path: The page.
        title: Its heading.
        rounds: Rounds that the run will have.
        stages: The stages so far, by name.
        students: Metrics of each student so far, S_0 first.
        fits: Tokens and losses of the recorded steps, by fit.
        spend: Calls, cached calls, tokens and USD so far; empty without calls.
        calls: Calls of the stage in progress.
        state: State of the run.
        reason: Why it failed or was stopped.
    """

    path: Path
    title: str
    rounds: int
    stages: dict[str, StageLine] = field(default_factory=dict)
    students: list[Mapping[str, Any]] = field(default_factory=list)
    fits: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    spend: Event = field(default_factory=dict)
    calls: Event = field(default_factory=dict)
    state: State = State.RUNNING
    reason: str = ""
    _due: float = 0.0

    def read(self, event: Event) -> None:
        """Take up an event, and write the page unless it was written a moment ago."""
        self._take(event)
        if time.monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Write the page."""
        started = time.monotonic()
        # Nothing is lost with a half-written page after a power failure, so it is not synced.
        write_text_atomic(self.path, render("live_page.html.jinja", page=self), durable=False)
        self._due = time.monotonic() + max(INTERVAL_S, 50 * (time.monotonic() - started))

    @property
    def figures(self) -> Mapping[str, str]:
        """Return the columns of the table of students."""
        return FIGURES

    @property
    def loss(self) -> Markup:
        """Return the chart of the losses; empty before the first step."""
        curves = []
        for fit, steps in self.fits.items():
            none = (None,) * len(steps)
            tokens, losses = tuple(tokens for tokens, _ in steps), tuple(loss for _, loss in steps)
            curves.append(charts.FitCurve(fit, tokens, losses, none, none))
        return Markup(charts.loss_curves(curves, "Training loss over tokens"))  # our own SVG is escaped already

    def _take(self, event: Event) -> None:
        kind = event["event"]
        match kind:
            case Kind.STAGE_STARTED:
                self.stages[event["stage"]] = StageLine(event["stage"])
                self.calls = {}
            case Kind.STAGE_FINISHED | Kind.STAGE_REUSED | Kind.STAGE_FAILED:
                figures = event.get("figures") or {}
                line = StageLine(event["stage"], DONE[kind], event.get("seconds"), figures.get("rows"))
                self.stages[line.name] = line
            case Kind.TRAINING_STEP:
                running = next((name for name in reversed(self.stages) if name.startswith("student-")), "student")
                number = running.removeprefix("student-")
                fit = student_name(int(number)) if number.isdigit() else running
                self.fits.setdefault(fit, []).append((event["tokens"], event["loss"]))
            case Kind.CALLS:
                self.calls = event
            case Kind.SPEND:
                self.spend = event
            case Kind.ROUND_FINISHED:
                self.students.append(event["metrics"])


@contextmanager
def live_page(run_dir: Path, title: str, rounds: int) -> Iterator[LivePage]:
    """Write the page of the run in progress during the block.

    If the block raises, the page shows the error; otherwise the block writes the report in its place.
    """
    page = LivePage(run_dir / REPORT, title, rounds)
    with reading_events(page.read):
        try:
            page.write()
            yield page
        except BaseException as error:
            failed = isinstance(error, Exception)
            pruned = isinstance(error, Pruned)
            page.state = State.FAILED if failed else State.PRUNED if pruned else State.STOPPED
            page.reason = str(error) if failed or pruned else ""
            with suppress(OSError):  # the disk may be what failed
                page.write()
            raise
