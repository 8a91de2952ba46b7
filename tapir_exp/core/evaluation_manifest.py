"""The manifest of an evaluation: which student was measured, by which judge, and where the figures are."""

import os
from pathlib import Path

from pydantic import ValidationError

from tapir_exp.core.errors import StoreError
from tapir_exp.core.manifest import Entry
from tapir_exp.core.records import Record
from tapir_exp.core.store import Artifact, Store, write_text_atomic

EVALUATION = "evaluation.json"


JUDGED = ("alpaca_eval", "mt_bench")
"""The suites that ask the judge."""


class Evaluation(Record):
    """What `tapir-evaluate` did.

    student: its name in the benchmarks' files; model: the model that it was trained from, or is.
    experiment, arm, seed, run: of the run that trained it, the directory as a path relative to the evaluation's; None
    for a student from elsewhere. judge: the judge's model; None where no suite has one.
    suites: the artifact with the figures of each suite, by suite; store: relative to the evaluation's directory.
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

    def write(self, directory: Path) -> None:
        """Write `evaluation.json` into the evaluation's directory."""
        write_text_atomic(directory / EVALUATION, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, directory: Path) -> "Evaluation":
        """Read the manifest. Raises StoreError where there is none, or one of another version."""
        path = directory / EVALUATION
        if not path.is_file():
            raise StoreError(f"{directory} holds no {EVALUATION}: not finished; the same command resumes it.")
        try:
            return cls.model_validate_json(path.read_text())
        except ValidationError as error:
            raise StoreError(f"{path} is not a manifest of this version: {error.error_count()} mistakes.") from error

    def open(self, directory: Path) -> dict[str, Artifact]:
        """The artifacts with the figures, by suite. Raises StoreError where one is gone from the store."""
        store = Store((directory / self.store).resolve())
        entries = {entry.name: entry for entry in self.artifacts}
        return {suite: store.open(entries[name].stage, entries[name].key) for suite, name in self.suites.items()}


def relative(path: Path | None, directory: Path) -> str | None:
    """A path as seen from the evaluation's directory."""
    return None if path is None else os.path.relpath(path, directory)
