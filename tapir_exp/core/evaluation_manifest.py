"""The manifest of an evaluation: which model was evaluated, by which judge, and which artifacts hold the figures."""

import os
from pathlib import Path

from pydantic import Field, ValidationError

from tapir_exp.core.errors import StoreError
from tapir_exp.core.manifest import Entry
from tapir_exp.core.records import Record
from tapir_exp.core.store import Artifact, Store, write_text_atomic

EVALUATION = "evaluation.json"
EVALUATIONS = "evaluations"
"""Directory within a run of the evaluations of its students, each in a directory such as S_3."""
SUITE_STAGE = "-suite"
"""End of the names of the stages with the figures of a suite."""
JUDGED = ("alpaca_eval", "mt_bench")
"""Suites that call the judge."""


class Evaluation(Record):
    """Record of one `tapir evaluate`.

    Attributes:
        student: Name of the evaluated model in the files of the benchmarks.
        model: Hub id or directory of its base model, or of the model itself.
        experiment: Experiment of the run that trained it; None for a model from elsewhere. So are arm, seed and run.
        arm: Arm of that run.
        seed: Seed of that run.
        run: Directory of that run, relative to the evaluation's directory.
        judge: Model of the judge; None if no suite has one.
        store: Artifact store, relative to the evaluation's directory.
        suites: Name of the artifact with the figures, by suite.
        artifacts: Every artifact that the evaluation used.
        judges: Model of the judge by suite, for suites with a judge; empty in files of earlier versions.
        round: Round of the student; None for `tapir evaluate`.
        last: Whether it is the last student of its run, or a model without a run.
    """

    student: str
    model: str | None
    experiment: str | None
    arm: str | None
    seed: int | None
    run: str | None
    judge: str | None
    store: str
    suites: dict[str, str]
    artifacts: tuple[Entry, ...]
    judges: dict[str, str] = Field(default_factory=dict)
    round: int | None = None
    last: bool = True

    def judge_of(self, suite: str) -> str | None:
        """Return the model that judged a suite; None if none did."""
        return self.judges.get(suite, self.judge) if suite in JUDGED else None

    def write(self, directory: Path) -> None:
        """Write `evaluation.json` into the evaluation's directory."""
        write_text_atomic(directory / EVALUATION, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> "Evaluation":
        """Read the manifest. Raises StoreError if there is none, or it was written by another version."""
        path = directory / EVALUATION
        if not path.is_file():
            raise StoreError(
                f"{directory} has no {EVALUATION}: the evaluation has not finished. Repeat its command to resume."
            )
        try:
            return cls.model_validate_json(path.read_text())
        except ValidationError as error:
            raise StoreError(
                f"{path} was written by another version ({error.error_count()} fields differ). "
                "Repeat the evaluation to replace it."
            ) from error

    def open(self, directory: Path) -> dict[str, Artifact]:
        """Open the artifacts with the figures, by suite. Raises StoreError if one is missing from the store."""
        store = Store((directory / self.store).resolve())
        entries = {entry.name: entry for entry in self.artifacts}
        return {suite: store.open(entries[name].stage, entries[name].key) for suite, name in self.suites.items()}


def relative(path: Path | None, directory: Path) -> str | None:
    """Return a path relative to the evaluation's directory; None stays None."""
    return None if path is None else os.path.relpath(path, directory)
