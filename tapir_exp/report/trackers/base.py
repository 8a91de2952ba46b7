"""What a tracker gets of a job, and the interface of a tracker."""

import time as clock
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

ID_LENGTH = 16
"""Hex digits of a job's key that are the id of its runs in the trackers."""
FIT = "fit/"
"""Start of the axes with the steps of a fit."""
STEPS_HELD_S = 2.0
"""Seconds for which steps are held back, so that many are written at once; less than `buffer_s` of a tracker."""


@dataclass(frozen=True)
class JobInfo:
    """A job, as trackers name it.

    Attributes:
        id: Derived from the key of the job, so that a resumed job continues its run in each tracker.
        name: For a job of a sweep, its settings that differ from those of the others.
        group: Name of the sweep; None for a single run.
        job_type: train or evaluate.
        tags: Tags of the run.
        settings: The resolved configuration, without secrets.
        run_dir: Directory of the run.
        store: Directory of the artifact store.
        outputs: Directory of all outputs.
    """

    id: str
    name: str
    group: str | None
    job_type: str
    tags: tuple[str, ...]
    settings: Mapping[str, Any]
    run_dir: Path
    store: Path
    outputs: Path


@dataclass(frozen=True)
class Point:
    """Values at one position of an axis.

    Attributes:
        axis: Name of the axis, such as `round` or `fit/S_1/step`.
        position: Position on the axis, from 0.
        values: Values by name; texts are names and reasons, None is a figure that the job does not have.
        time: Seconds since 1970.
    """

    axis: str
    position: int
    values: Mapping[str, float | str | None]
    time: float


@dataclass(frozen=True)
class Table:
    """Rows of a round, such as its curriculum.

    Attributes:
        name: Name of the table, with the round.
        position: The round.
        columns: Names of the columns.
        rows: Cells of each row: texts, numbers or None.
        time: Seconds since 1970.
    """

    name: str
    position: int
    columns: tuple[str, ...]
    rows: Sequence[Sequence[float | str | None]]
    time: float


@dataclass(frozen=True)
class Histogram:
    """Distribution of a figure over the rows of a round.

    Attributes:
        name: Name of the figure.
        position: The round.
        values: The figure of each row.
        edges: Edges of the bins, ascending.
        time: Seconds since 1970.
    """

    name: str
    position: int
    values: Sequence[float]
    edges: Sequence[float]
    time: float

    @property
    def counts(self) -> list[int]:
        """Return the number of values in each bin; the last bin holds its upper edge, too. Others are not counted."""
        counts = [0] * (len(self.edges) - 1)
        for value in self.values:
            if self.edges[0] <= value <= self.edges[-1]:
                counts[min(bisect_right(self.edges, value), len(counts)) - 1] += 1
        return counts


@dataclass(frozen=True)
class ArtifactReference:
    """An artifact in the store, which trackers name but do not copy.

    Attributes:
        name: Stage and key, the same in every job that shares the artifact.
        stage: The stage, as the type of the artifact.
        path: Its directory.
        metadata: Key, round, rows, and the names of the artifacts that it was made from.
        time: Seconds since 1970.
    """

    name: str
    stage: str
    path: Path
    metadata: Mapping[str, Any]
    time: float


@dataclass(frozen=True)
class Page:
    """A finished HTML page of the job, such as its report."""

    name: str
    path: Path
    time: float


Entry = Point | Table | Histogram | ArtifactReference | Page


class Tracker(Protocol):
    """One run in a tracker. Opening it connects it; every method may raise, which ends this tracker only.

    Attributes:
        name: Name of the tracker, as in `logger.report_to`.
        continues: Whether a resumed job adds to what it has logged before; otherwise it logs everything again.
        buffer_s: Seconds of logged entries that a killed job may lose.
    """

    name: str
    continues: bool
    buffer_s: float

    def log(self, entry: Entry) -> None:
        """Log an entry; a kind that the tracker cannot show is skipped."""

    def finish(self, *, succeeded: bool) -> None:
        """Finish the run in the tracker."""


@dataclass
class StepPace:
    """Rule for when a tracker writes: at once, except for steps of a fit that follow one another quickly.

    A fit ends with a stage that has finished or failed, so that no step is held back for long.
    """

    _written: float = field(default=float("-inf"), init=False)

    def is_due(self, entry: Entry) -> bool:
        """Return whether the entry shall be written now, with everything that was held back before it."""
        is_step = isinstance(entry, Point) and entry.axis.startswith(FIT)
        now = clock.monotonic()
        if is_step and now - self._written < STEPS_HELD_S:
            return False
        self._written = now
        return True


def plain_number(value: object) -> float | None:
    """Return a number as a float; None for everything else, truth values included."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
