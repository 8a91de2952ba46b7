"""The student that is evaluated: a run's last one, any Hugging Face or PEFT model, or only its given answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from tapir_exp.config import StudentConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import Response
from tapir_exp.core.store import digest_files

LAB_STUDENT = "lab"
NO_STUDENT = (
    "evals.run = null: expected the directory of a run, or in its place student.model, a Hugging Face id or directory, "
    "or for each suite a file of answers"
)


@dataclass(frozen=True)
class EvalQuestion:
    """What a student is asked: the turns of a dialogue, and the temperature of its answers."""

    id: str
    turns: tuple[str, ...]
    temperature: float


@dataclass(frozen=True)
class EvaluatedModel:
    """A student and how it is asked.

    name: in the benchmarks' files. student: how it is asked; its `model` is what it was trained from, or is.
    source: directory or hub id; None where there are only answers of it. identity: what tells its answers from others'.
    run, manifest: of the run that trained it; None for a student from elsewhere.
    """

    name: str
    student: StudentConfig
    source: Path | None
    identity: Mapping[str, Any]
    run: Path | None = None
    manifest: Manifest | None = None

    def limited(self, max_new_tokens: int) -> "EvaluatedModel":
        """The same student with another limit on its answers, in tokens."""
        return replace(self, student=replace(self.student, max_new_tokens=max_new_tokens))

    def answer(self, prompts: Sequence[tuple[str, str]], label: str) -> list[Response]:
        """Greedy answers to (id, instruction) pairs. Raises ConfigError where there is no student."""
        from tapir_exp.student.generate import generate_responses

        return generate_responses(self._found(), prompts, self.student, label)

    def converse(self, asked: Sequence[EvalQuestion], seed: int, label: str) -> list[list[Response]]:
        """Answers to every turn of every dialogue. Raises ConfigError where there is no student."""
        from tapir_exp.student.multi_turn import Conversation, generate_conversations

        dialogues = [Conversation(row.id, row.turns, row.temperature) for row in asked]
        return generate_conversations(self._found(), dialogues, self.student, seed, label)

    def _found(self) -> Path:
        if self.source is None:
            raise ConfigError([NO_STUDENT])
        return self.source


def last_student(run: Path, name: str | None, student: StudentConfig) -> EvaluatedModel:
    """The last student of a finished run; `student` is how that run asks it. Raises StoreError without a manifest."""
    manifest = Manifest.load(run)
    artifact = manifest.open(run)[f"student-{len(manifest.alphas)}"]
    return EvaluatedModel(
        name=name or f"{manifest.name}-{manifest.arm}-seed{manifest.seed}",
        student=student,
        source=artifact.path,
        identity={"student": artifact.key},
        run=run,
        manifest=manifest,
    )


def any_student(name: str | None, student: StudentConfig) -> EvaluatedModel:
    """The model that the configuration names; the lab's own is only there within a run."""
    source = None if student.model == LAB_STUDENT else Path(student.model)
    return EvaluatedModel(
        name=name or Path(student.model).name,
        student=student,
        source=source,
        identity={"model": student.model, "revision": student.revision, "files": _digest(source)},
    )


def _digest(source: Path | None) -> str | None:
    """One SHA-256 over a directory's files; None for a hub id."""
    if source is None or not source.is_dir():
        return None
    return sha256(repr(sorted(digest_files(source).items())).encode()).hexdigest()
