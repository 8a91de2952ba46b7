"""The model that is evaluated: the last student of a run, a Hugging Face or PEFT model, or given responses only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from tapir_exp.config import StudentConfig
from tapir_exp.config.lab_parts import LAB_STUDENT
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import Response
from tapir_exp.core.store import check_if_artifact, digest_files
from tapir_exp.core.stored_rows import RowLog

NO_STUDENT = (
    "evals.run = null: expected the directory of a run. Alternatively set student.model to a Hugging Face id or "
    "directory, or give each suite a file of responses"
)


@dataclass(frozen=True)
class EvalQuestion:
    """Turns of a dialogue, and the sampling temperature of the responses."""

    id: str
    turns: tuple[str, ...]
    temperature: float


@dataclass(frozen=True)
class EvaluatedModel:
    """A model, and the settings of its generation.

    Attributes:
        name: Name in the files of the benchmarks.
        student: Settings of generation; `model` is its base model, or the model itself.
        source: Directory or hub id; None if only responses are given.
        identity: Part of the recipe that identifies the model.
        run: Directory of the run that trained it; None for a model from elsewhere.
        manifest: Manifest of that run; None likewise.
        round: Round of the student within the run that evaluates it; None for `tapir evaluate`.
    """

    name: str
    student: StudentConfig
    source: Path | None
    identity: Mapping[str, Any]
    run: Path | None = None
    manifest: Manifest | None = None
    round: int | None = None

    def limited(self, max_new_tokens: int) -> "EvaluatedModel":
        """Return the same model with another limit of its responses, in tokens."""
        return replace(self, student=replace(self.student, max_new_tokens=max_new_tokens))

    def answer(self, prompts: Sequence[tuple[str, str]], label: str, kept: RowLog[Response]) -> Sequence[Response]:
        """Generate greedy responses to (id, instruction) pairs, those in `kept` excepted. Raises ConfigError."""
        from tapir_exp.student.generate import generate_responses

        return generate_responses(self._model_path(), prompts, self.student, label, kept=kept)

    def converse(
        self, questions: Sequence[EvalQuestion], seed: int, label: str, kept: RowLog[Response]
    ) -> list[list[Response]]:
        """Generate responses to every turn of every dialogue, those in `kept` excepted. Raises ConfigError."""
        from tapir_exp.student.multi_turn import Conversation, generate_conversations

        dialogues = [Conversation(row.id, row.turns, row.temperature) for row in questions]
        return generate_conversations(self._model_path(), dialogues, self.student, seed, label, kept)

    def _model_path(self) -> Path:
        if self.source is None:
            raise ConfigError([NO_STUDENT])
        return self.source


def last_student(run: Path, name: str, student: StudentConfig) -> EvaluatedModel:
    """Return the last student of a finished run, with the settings of that run. Raises StoreError if unfinished."""
    manifest = Manifest.load(run)
    artifact = manifest.open_last_student(run)
    return EvaluatedModel(
        name=name,
        student=student,
        source=artifact.path,
        identity={"student": artifact.key},
        run=run,
        manifest=manifest,
    )


def any_student(name: str | None, student: StudentConfig) -> EvaluatedModel:
    """Return the model of the configuration; the base student of the lab exists only within a run.

    Raises:
        DamagedArtifact: If it is an artifact of a store whose files have changed.
    """
    source = None if student.model == LAB_STUDENT else Path(student.model)
    if source is not None:
        check_if_artifact(source)
    return EvaluatedModel(
        name=name or Path(student.model).name,
        student=student,
        source=source,
        identity={"model": student.model, "revision": student.revision, "files": _digest(source)},
    )


def _digest(source: Path | None) -> str | None:
    """Return one SHA-256 over the files of a directory; None for a hub id."""
    if source is None or not source.is_dir():
        return None
    return sha256(repr(sorted(digest_files(source).items())).encode()).hexdigest()
