"""Read finished evaluations for the tables: manifest, figures, and the value of each instruction."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir_exp.core.errors import StoreError
from tapir_exp.core.evaluation_manifest import EVALUATION, Evaluation
from tapir_exp.core.json_rows import read_json_objects
from tapir_exp.core.manifest import MANIFEST
from tapir_exp.core.store import Artifact
from tapir_exp.evals.win_rate import is_preference, win_share
from tapir_exp.report.sweep.variants import NO_VARIANT, Variant, Variants

Values = Mapping[str, float]
"""Value of a student on each instruction of a suite: per cent, or the rating from 1 to 10 on MT-Bench."""


@dataclass(frozen=True)
class EvaluationResult:
    """A finished evaluation.

    Attributes:
        evaluation: Its manifest.
        artifacts: Artifacts with the figures, by suite.
        link: Path of its manifest, relative to the tables.
        run: Path of the manifest of the run that trained its student, relative to the tables; None for other models.
        variant: How the job of this run differs from the rest of its sweep.
    """

    evaluation: Evaluation
    artifacts: Mapping[str, Artifact]
    link: str
    run: str | None
    variant: Variant = NO_VARIANT

    @property
    def figures(self) -> dict[str, Mapping[str, Any]]:
        """Return the figures by suite and name."""
        return {suite: artifact.figures for suite, artifact in self.artifacts.items()}

    @property
    def label(self) -> str:
        """Return experiment and arm of a trained student, or the name of another model."""
        evaluation = self.evaluation
        if evaluation.arm:
            return " · ".join([str(evaluation.experiment), evaluation.arm, *self.variant.shown]) + " (ours)"
        return f"{evaluation.student} (ours)"

    @property
    def method(self) -> str | None:
        """Return the arm, with the settings that its job does not share with the baseline of its sweep."""
        arm = self.evaluation.arm
        return None if arm is None else " ".join([arm, *self.variant.changed])

    def comparability_key(self, suite: str) -> tuple[str | None, str | None]:
        """Return the judge (None if the suite has none) and the benchmark; figures with different keys do not mix."""
        return self.evaluation.judge_of(suite), self.figures[suite].get("benchmark")

    def missing_reason(self, suite: str, name: str) -> str:
        """Return why a suite of this evaluation lacks a figure."""
        reasons: Mapping[str, str] = self.figures[suite].get("without") or {}
        return reasons.get(name, "the evaluation does not have this figure")

    def values(self, suite: str) -> Values:
        """Read the value of each instruction; an instruction without a value is absent."""
        return VALUE_READERS[suite](self.artifacts[suite].path)


def load_evaluation(directory: Path, tables_dir: Path, variants: Variants | None = None) -> EvaluationResult:
    """Read an evaluation, with links relative to `tables_dir`.

    Args:
        directory: Directory of the evaluation.
        tables_dir: Directory of the tables.
        variants: Finds how jobs of sweeps differ; None if no run is a job of a sweep.

    Raises:
        StoreError: The manifest is missing or unreadable, or an artifact is missing from the store.
    """
    evaluation = Evaluation.load(directory)
    link = os.path.relpath(directory / EVALUATION, tables_dir)
    run = None if evaluation.run is None else os.path.relpath(directory / evaluation.run / MANIFEST, tables_dir)
    trained = None if evaluation.run is None else (directory / evaluation.run).resolve()
    variant = NO_VARIANT if variants is None or trained is None else variants.of_run(trained)
    return EvaluationResult(evaluation, evaluation.open(directory), link, run, variant)


def _lab_values(path: Path) -> dict[str, float]:
    return {row["instruction"]: 100.0 * row["exact"] for row in read_json_objects(path / "results.jsonl", StoreError)}


def _alpaca_eval_values(path: Path) -> dict[str, float]:
    rows = read_json_objects(path / "annotations.json", StoreError)
    # An annotation that could not be parsed has no valid preference.
    return {row["instruction"]: 100 * win_share(row["preference"]) for row in rows if is_preference(row["preference"])}


def _mt_bench_values(path: Path) -> dict[str, float]:
    (file,) = (path / "model_judgment").glob("*.jsonl")  # FastChat's layout: one file per judge
    return {
        f"{row['question_id']}/{row['turn']}": float(row["score"])
        for row in read_json_objects(file, StoreError)
        if row["score"] != -1  # FastChat's mark for a judgment without a rating
    }


def _ifeval_values(path: Path) -> dict[str, float]:
    rows = read_json_objects(path / "results.jsonl", StoreError)
    return {str(row["key"]): 100.0 * all(row["strict"]) for row in rows}


VALUE_READERS: Mapping[str, Callable[[Path], dict[str, float]]] = {
    "lab": _lab_values,
    "alpaca_eval": _alpaca_eval_values,
    "mt_bench": _mt_bench_values,
    "ifeval": _ifeval_values,
}
