"""The workbench of a run: its configuration, the store, the models, and the list of what was made."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tapir_exp.config import Config, JudgeConfig, StudentConfig, TeacherConfig
from tapir_exp.core.console import print_stage
from tapir_exp.core.manifest import Entry, entry_of
from tapir_exp.core.records import DroppedRow, Record
from tapir_exp.core.store import DROPPED, ROWS, Artifact, Store, write_rows
from tapir_exp.distillation.classifier.base import TaskClassifier
from tapir_exp.llm.chat import ChatModel
from tapir_exp.llm.ledger import Ledger

Recipe = Mapping[str, Any]
NO_REPLY = ("llm", "max_failure_rate", "stream_while_generating")
"""Settings of a role that change no reply; what of `llm` does is in the model's identity."""


@dataclass(frozen=True)
class StageOutput:
    """The rows that a stage made, its figures, and what it left out, where it picks and chooses."""

    rows: Iterable[Record]
    figures: Mapping[str, Any]
    dropped: Sequence[DroppedRow] | None = None


@dataclass
class Workspace:
    """Where the stages of one run are carried out and written down.

    held_out_instructions: instructions that nothing which is trained on may repeat.
    """

    config: Config
    store: Store
    teacher: ChatModel
    judge: ChatModel
    classifier: TaskClassifier
    ledger: Ledger
    entries: list[Entry] = field(default_factory=list)
    held_out_instructions: frozenset[str] = frozenset()

    def rows(
        self,
        stage: str,
        round_number: int | None,
        recipe: Recipe,
        make: Callable[[], StageOutput],
        *,
        asks: bool = True,
    ) -> Artifact:
        """Carry out a stage whose product is rows; `round_number` is None for what belongs to no round.

        asks: whether it asks chat models; else what is asked meanwhile is the spend of the stage that asks.
        """

        def write(directory: Path) -> Mapping[str, Any]:
            with ExitStack() as call_store:
                spent = call_store.enter_context(self.ledger.during(_name(stage, round_number))) if asks else {}
                product = make()
                count = write_rows(directory / ROWS, product.rows)
                if product.dropped is not None:
                    write_rows(directory / DROPPED, product.dropped)
            spend = {role: of_role.model_dump() for role, of_role in spent.items()}
            return {"rows": count, **product.figures, "spend": spend}

        return self.directory(stage, round_number, recipe, write)

    def directory(
        self, stage: str, round_number: int | None, recipe: Recipe, make: Callable[[Path], Mapping[str, Any]]
    ) -> Artifact:
        """Carry out a stage whose product is a directory of files; one asked for again stands where it came last."""
        artifact = self.store.produce(stage, recipe, make)
        name = _name(stage, round_number)
        entry = entry_of(name, round_number or 0, artifact)
        self.entries[:] = [*(known for known in self.entries if known != entry), entry]
        print_stage(name, artifact.figures, artifact.seconds, artifact.reused)
        return artifact


def role_recipe(chat: ChatModel, config: TeacherConfig | JudgeConfig) -> dict[str, Any]:
    """What of a role changes its replies: the model and the role's settings, but not how it is reached."""
    settings = {name: value for name, value in asdict(config).items() if name not in NO_REPLY}
    return {"model": chat.identity(), **settings}


def generation_recipe(student: StudentConfig) -> dict[str, Any]:
    """What of the student's settings changes its answers."""
    return {
        "template": [student.chat_template, student.system_prompt],
        "max_new_tokens": student.max_new_tokens,
        "precision": student.precision,
        "engine": student.engine,
    }


def _name(stage: str, round_number: int | None) -> str:
    """What the manifest, the ledger and the terminal call a stage."""
    return stage if round_number is None else f"{stage}-{round_number}"
