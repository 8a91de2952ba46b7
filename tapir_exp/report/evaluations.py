"""A finished evaluation as the tables see it: its manifest, its figures, and its values instruction by instruction."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tapir_exp.core.errors import StoreError
from tapir_exp.core.evaluation_manifest import EVALUATION, JUDGED, Evaluation
from tapir_exp.core.json_rows import read_json_objects
from tapir_exp.core.manifest import MANIFEST
from tapir_exp.core.store import Artifact
from tapir_exp.evals.win_rate import is_preference, win_share

Values = Mapping[str, float]
"""What a student scored on each instruction of a suite, by the instruction."""


@dataclass(frozen=True)
class EvaluationResult:
    """An evaluation; figures: by suite and name.

    link, run: its manifest, and that of the run that trained its student, as the tables link to them.
    """

    evaluation: Evaluation
    artifacts: Mapping[str, Artifact]
    link: str
    run: str | None

    @property
    def figures(self) -> dict[str, Mapping[str, Any]]:
        """The figures of every suite."""
        return {suite: artifact.figures for suite, artifact in self.artifacts.items()}

    @property
    def label(self) -> str:
        """The experiment and arm of a trained student, else its name."""
        known = self.evaluation
        return f"{known.experiment} · {known.arm} (ours)" if known.arm else f"{known.student} (ours)"

    def circumstances(self, suite: str) -> tuple[str | None, str | None]:
        """The judge of a suite, None where it has none, and its benchmark: figures of others are not to be mixed."""
        return self.evaluation.judge if suite in JUDGED else None, self.figures[suite].get("benchmark")

    def why_not(self, suite: str, name: str) -> str:
        """Why a suite of this evaluation has no figure of this name."""
        without: Mapping[str, str] = self.figures[suite].get("without") or {}
        return without.get(name, "the evaluation does not have this figure")

    def values(self, suite: str) -> Values:
        """The student's values instruction by instruction; an instruction without a value is absent."""
        return READERS[suite](self.artifacts[suite].path)


def load_evaluation(directory: Path, folder: Path) -> EvaluationResult:
    """Read an evaluation; links are as seen from `folder`.

    Raises StoreError where its manifest or one of its artifacts cannot be had.
    """
    evaluation = Evaluation.load(directory)
    run = None if evaluation.run is None else os.path.relpath(directory / evaluation.run / MANIFEST, folder)
    return EvaluationResult(
        evaluation, evaluation.open(directory), os.path.relpath(directory / EVALUATION, folder), run
    )


def _lab(path: Path) -> dict[str, float]:
    return {row["instruction"]: 100.0 * row["exact"] for row in read_json_objects(path / "results.jsonl", StoreError)}


def _alpaca_eval(path: Path) -> dict[str, float]:
    rows = read_json_objects(path / "annotations.json", StoreError)
    return {row["instruction"]: 100 * win_share(row["preference"]) for row in rows if is_preference(row["preference"])}


def _mt_bench(path: Path) -> dict[str, float]:
    (file,) = (path / "model_judgment").glob("*.jsonl")
    return {
        f"{row['question_id']}/{row['turn']}": float(row["score"])
        for row in read_json_objects(file, StoreError)
        if row["score"] != -1
    }


def _ifeval(path: Path) -> dict[str, float]:
    return {
        str(row["key"]): 100.0 * all(row["strict"]) for row in read_json_objects(path / "results.jsonl", StoreError)
    }


READERS: Mapping[str, Callable[[Path], dict[str, float]]] = {
    "lab": _lab,
    "alpaca_eval": _alpaca_eval,
    "mt_bench": _mt_bench,
    "ifeval": _ifeval,
}
