"""Where the rows of a run came from, and what was left out on the way: the seeds' source, and the teacher."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tapir_exp.core.records import DroppedRow, DropReason
from tapir_exp.core.store import DROPPED, Artifact, read_rows
from tapir_exp.report.run_view import RunView

MOST_LEAKS = 10
"""Leaks that are shown in full."""


@dataclass(frozen=True)
class Expanded:
    """What the teacher's calls of one round brought; `figures` are the stage's own, by name."""

    round: int
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class Origins:
    """The counts of the seeds and of each round's expansions; seeds is empty for a run of before these were counted.

    leaks: the first of them, with the question and the words that they share with it; more: how many others there are.
    """

    seeds: Mapping[str, Any]
    expansions: tuple[Expanded, ...]
    leaks: tuple[DroppedRow, ...]
    more: int


def data_origins(run: RunView) -> Origins:
    """Read the counts from a run's artifacts."""
    seeds = run.artifacts["seeds"].figures
    expansions = tuple(Expanded(r.number, r.expanded) for r in run.rounds if "kept_per_call" in r.expanded)
    found = [leak for artifact in run.artifacts.values() for leak in _leaks(artifact)]
    return Origins(seeds if "read" in seeds else {}, expansions, tuple(found[:MOST_LEAKS]), len(found[MOST_LEAKS:]))


def _leaks(artifact: Artifact) -> list[DroppedRow]:
    if not artifact.figures.get("contaminated"):
        return []
    return [one for one in read_rows(artifact.path / DROPPED, DroppedRow) if one.reason is DropReason.CONTAMINATED]
