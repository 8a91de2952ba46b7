"""The manifest of a run: every artifact it used, so that its figures can be rebuilt without a call."""

import json
from pathlib import Path
from typing import Annotated

from pydantic import StringConstraints, ValidationError

from tapir_exp.core.errors import StoreError
from tapir_exp.core.records import Record
from tapir_exp.core.store import FORMAT, Artifact, Store, write_text_atomic
from tapir_exp.core.task_types import TaskType

MANIFEST = "manifest.json"
PlainName = Annotated[str, StringConstraints(pattern=r"^\w[\w.-]*$")]
"""One path component, so that an untrusted manifest names nothing outside its store."""


class Entry(Record):
    """One artifact of a run; `files` maps each file to its SHA-256. `round` is 0 before the first round."""

    name: str
    stage: PlainName
    round: int
    key: PlainName
    files: dict[str, str]


class Manifest(Record):
    """Record of a finished run.

    Attributes:
        format: Version of the records in the store (`core.store.FORMAT`).
        name: Name of the experiment.
        arm: Variant of the method.
        seed: Seed of the run.
        store: Path of the artifact store, relative to the run directory.
        delta: Threshold of the hard set, in judge points.
        alphas: Weight of the hard set in each round.
        target: Target share of each task type; None if the run had no rounds.
        artifacts: Every artifact that the run used, in the order of their last use.
    """

    format: int = FORMAT
    name: str
    arm: str
    seed: int
    store: str
    delta: float
    alphas: tuple[float, ...]
    target: dict[TaskType, float] | None
    artifacts: tuple[Entry, ...]

    def write(self, run_dir: Path) -> None:
        """Write `manifest.json` into the run directory."""
        write_text_atomic(run_dir / MANIFEST, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, run_dir: Path) -> "Manifest":
        """Read the manifest of a run. Raises StoreError if there is none yet, it is damaged or of another format."""
        path = run_dir / MANIFEST
        if not path.is_file():
            raise StoreError(f"{run_dir} has no {MANIFEST}: the run has not finished. Repeat its command to resume it.")
        try:
            content = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError) as error:
            raise StoreError(f"{path} cannot be read: {error}. Repeat the command of the run to rewrite it.") from error
        if (written := content.get("format", 1)) != FORMAT:
            raise StoreError(
                f"{path} has format {written}, but this version reads format {FORMAT}. Run the experiment again: "
                "artifacts are made again, paid replies are reused."
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise StoreError(
                f"{path} is not the manifest of a run: {place}: {first['msg']}. Repeat the command of the run to "
                "rewrite it."
            ) from error

    def open(self, run_dir: Path) -> dict[str, Artifact]:
        """Open the artifacts of the run, by name. Raises StoreError if one is missing from the store."""
        store = Store((run_dir / self.store).resolve())
        return {entry.name: store.open(entry.stage, entry.key) for entry in self.artifacts}

    def open_last_student(self, run_dir: Path) -> Artifact:
        """Open the student of the last round, as it was judged. Raises StoreError if an artifact is missing."""
        artifacts, number = self.open(run_dir), len(self.alphas)
        # Only a run with `sft.judged_student` other than as_trained has both.
        return artifacts.get(f"judged_student-{number}") or artifacts[f"student-{number}"]


def entry_of(name: str, round_number: int, artifact: Artifact) -> Entry:
    """Return the manifest entry of an artifact."""
    return Entry(name=name, stage=artifact.stage, round=round_number, key=artifact.key, files=dict(artifact.files))
