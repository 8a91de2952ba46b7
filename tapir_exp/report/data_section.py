"""Training data of a run: rows read and dropped for the seeds, and proposals accepted and rejected in each round."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tapir_exp.core.records import DroppedRow, DropReason
from tapir_exp.core.store import DROPPED, Artifact, read_rows
from tapir_exp.report.run_view import RunView

MAX_LEAKS = 10
"""Benchmark leaks that the report lists in full."""


@dataclass(frozen=True)
class RoundExpansion:
    """Figures of the expansion stage of one round, by name."""

    round: int
    figures: Mapping[str, Any]


@dataclass(frozen=True)
class DataOrigins:
    """Counts of the seeds and of each round's expansions.

    Attributes:
        seeds: Figures of the seed stage; empty for a run of an older version, which did not count them.
        labels: Figures of the classification of the seeds; empty for a run without it.
        expansions: Figures of each round.
        leaks: The first rows that repeat a benchmark question, with the text that both share.
        more_leaks: Number of further leaks.
    """

    seeds: Mapping[str, Any]
    labels: Mapping[str, Any]
    expansions: tuple[RoundExpansion, ...]
    leaks: tuple[DroppedRow, ...]
    more_leaks: int


def data_origins(run: RunView) -> DataOrigins:
    """Read the counts from the artifacts of a run."""
    seeds = run.artifacts["seeds"].figures
    expansions = tuple(
        RoundExpansion(r.number, r.expansion_figures) for r in run.rounds if "kept_per_call" in r.expansion_figures
    )
    labels = run.artifacts["task_labels"].figures if "task_labels" in run.artifacts else {}
    leaks = [leak for artifact in run.artifacts.values() for leak in _leaks(artifact)]
    counted = seeds if "read" in seeds else {}
    return DataOrigins(counted, labels, expansions, tuple(leaks[:MAX_LEAKS]), len(leaks[MAX_LEAKS:]))


def _leaks(artifact: Artifact) -> list[DroppedRow]:
    # The figure avoids reading the dropped rows of artifacts without leaks.
    if not artifact.figures.get("contaminated"):
        return []
    return [row for row in read_rows(artifact.path / DROPPED, DroppedRow) if row.reason is DropReason.CONTAMINATED]
