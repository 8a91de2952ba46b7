"""The manifest of a run: every artifact it used, so that its figures can be rebuilt without a single call."""

from pathlib import Path

from tapir_exp.core.errors import StoreError
from tapir_exp.core.records import Record
from tapir_exp.core.store import Artifact, Store, write_text_atomic
from tapir_exp.core.task_types import TaskType

MANIFEST = "manifest.json"


class Entry(Record):
    """One artifact of a run; `files` maps each file to its SHA-256, `round` is 0 before the first round."""

    name: str
    stage: str
    round: int
    key: str
    files: dict[str, str]


class Manifest(Record):
    """What a run was and what it used.

    store: path of the artifact store, relative to the run directory.
    delta: threshold of the hard set, in judge points; alphas: weight of the hard set in each round.
    target: wanted share of each task type; None where the run had no rounds.
    """

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
        """Read a run's manifest. Raises StoreError where the run has none yet."""
        path = run_dir / MANIFEST
        if not path.is_file():
            raise StoreError(f"{run_dir} holds no {MANIFEST}: the run has not finished; the same command resumes it.")
        return cls.model_validate_json(path.read_text())

    def open(self, run_dir: Path) -> dict[str, Artifact]:
        """The run's artifacts by name. Raises StoreError where one is gone from the store."""
        store = Store((run_dir / self.store).resolve())
        return {entry.name: store.open(entry.stage, entry.key) for entry in self.artifacts}


def entry_of(name: str, round_number: int, artifact: Artifact) -> Entry:
    """The line of a manifest that stands for an artifact."""
    return Entry(name=name, stage=artifact.stage, round=round_number, key=artifact.key, files=dict(artifact.files))
