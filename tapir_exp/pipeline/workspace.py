"""The workspace of a run: configuration, artifact store, models, and the list of artifacts used so far."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tapir_exp.config import ChatTemplate, Config, JudgeConfig, StudentConfig, Suite, TeacherConfig
from tapir_exp.config.lab_parts import LAB_STUDENT
from tapir_exp.core import events
from tapir_exp.core.console import print_stage
from tapir_exp.core.events import Kind
from tapir_exp.core.manifest import Entry, entry_of
from tapir_exp.core.records import DroppedRow, Record
from tapir_exp.core.store import DROPPED, ROWS, Artifact, Store, write_rows
from tapir_exp.core.stored_rows import UNFINISHED, RowLog
from tapir_exp.distillation.classifier.base import TaskClassifier
from tapir_exp.llm.chat import ChatModel
from tapir_exp.llm.ledger import Ledger, Spend
from tapir_exp.llm.streaming import StreamableModel
from tapir_exp.student.constants import TEMPLATE_DATE

Row = TypeVar("Row", bound=Record)
Recipe = Mapping[str, Any]
NO_REPLY = (
    *("llm", "max_failure_rate", "max_unusable_responses", "stream_while_generating"),
    *("check", "check_pairs", "check_min_accuracy", "check_stop"),
    "panel",
)
"""Settings of a role that change no completion; those of `llm` that do are in the model's identity."""
UNUSED = {"own_reference": False, "metrics": False, "samples": 1, "top_logprobs": 10}
"""Settings with the value that leaves the judge's requests as they were before these settings existed."""


@dataclass(frozen=True)
class StageOutput:
    """Output of a stage.

    Attributes:
        rows: The rows.
        figures: Counts and other figures, for the sidecar of the artifact.
        dropped: Rows that the stage dropped; None for a stage that selects nothing.
        spend: Spend by role, from a stage that another ledger than the workspace's has recorded.
    """

    rows: Iterable[Record]
    figures: Mapping[str, Any]
    dropped: Sequence[DroppedRow] | None = None
    spend: Mapping[str, Spend] = field(default_factory=dict)


@dataclass
class Workspace:
    """Runs the stages of one run and records the artifacts.

    Attributes:
        config: The whole configuration of the run.
        store: The artifact store, shared by all runs of an outputs directory.
        teacher: The model that responds, expands and refines.
        judge: The model that scores responses, also in another thread.
        classifier: The classifier of task types.
        ledger: The spend of this run.
        suite_judges: Judges of the suites that have one of their own.
        run_name: Name of the students in the files of the suites.
        entries: Artifacts used so far, in the order of their last use.
        before_work: Called once before the first artifact is made, so never by a run that reuses all of its artifacts.
    """

    config: Config
    store: Store
    teacher: ChatModel
    judge: StreamableModel
    classifier: TaskClassifier
    ledger: Ledger
    suite_judges: Mapping[Suite, ChatModel] = field(default_factory=dict)
    run_name: str = "student"
    entries: list[Entry] = field(default_factory=list)
    before_work: Callable[[], None] | None = None

    def rows(
        self,
        stage: str,
        round_number: int | None,
        recipe: Recipe,
        make: Callable[[], StageOutput],
        *,
        record_spend: bool = True,
    ) -> Artifact:
        """Run a stage whose artifact is rows, or reuse the artifact.

        Args:
            stage: Name of the stage; its directory in the store.
            round_number: Round of the stage; None if it belongs to no round.
            recipe: Everything that determines the rows.
            make: Makes the rows; not called if the artifact exists.
            record_spend: Whether the workspace's ledger records the calls of `make` under this stage; if False,
                `StageOutput.spend` holds their spend.
        """

        return self.directory(
            stage, round_number, recipe, partial(self._write_rows, stage_name(stage, round_number), record_spend, make)
        )

    def logged_rows(
        self,
        stage: str,
        round_number: int | None,
        recipe: Recipe,
        row_type: type[Row],
        make: Callable[[RowLog[Row]], StageOutput],
        *,
        resumes: bool = True,
    ) -> Artifact:
        """Run a stage that keeps what it makes as it comes, so that a killed process loses at most a batch; see `rows`.

        Args:
            stage: As in `rows`.
            round_number: As in `rows`.
            recipe: As in `rows`.
            row_type: Type of what is kept, which need not be that of the rows of the stage.
            make: Makes the rows. It gets the log, which holds what earlier processes of this artifact have kept.
            resumes: Whether the log outlives a killed process. A stage of calls needs none that does, since its
                completions are cached; it has a log to keep its rows out of memory.
        """

        def write(directory: Path) -> Mapping[str, Any]:
            with RowLog(directory / UNFINISHED, row_type) if resumes else self.spool(row_type) as log:
                return self._write_rows(stage_name(stage, round_number), True, lambda: make(log), directory)

        return self.directory(stage, round_number, recipe, write)

    def spool(self, row_type: type[Row]) -> RowLog[Row]:
        """Return a file without a name, for rows that would take much memory until they are written."""
        return RowLog.temporary(self.store.root / "partial", row_type)

    def _write_rows(
        self, name: str, record_spend: bool, make: Callable[[], StageOutput], directory: Path
    ) -> Mapping[str, Any]:
        """Write the files of a stage of rows, and return its figures."""
        with ExitStack() as stack:
            recorded = stack.enter_context(self.ledger.record_stage(name)) if record_spend else {}
            output = make()
            count = write_rows(directory / ROWS, output.rows)
            if output.dropped is not None:
                write_rows(directory / DROPPED, output.dropped)
        spend = {role: of_role.model_dump() for role, of_role in {**recorded, **output.spend}.items()}
        return {"rows": count, **output.figures, "spend": spend}

    def directory(
        self, stage: str, round_number: int | None, recipe: Recipe, make: Callable[[Path], Mapping[str, Any]]
    ) -> Artifact:
        """Run a stage whose artifact is a directory of files, or reuse the artifact; see `rows`."""
        name = stage_name(stage, round_number)

        def check_and_make(directory: Path) -> Mapping[str, Any]:
            check, self.before_work = self.before_work, None
            if check is not None:
                check()
            return _announced(name, make, directory)

        with _recorded(name):
            artifact = self.store.produce(stage, recipe, check_and_make)
        entry = entry_of(name, round_number or 0, artifact)
        # An artifact that is used again moves to the end: the manifest lists artifacts by their last use.
        self.entries[:] = [*(other for other in self.entries if other != entry), entry]
        self._report(name, artifact)
        return artifact

    def _report(self, name: str, artifact: Artifact) -> None:
        """Print and record that a stage is finished, and what the run has spent so far."""
        kind = Kind.STAGE_REUSED if artifact.reused else Kind.STAGE_FINISHED
        figures = {key: value for key, value in artifact.figures.items() if not isinstance(value, Mapping)}
        events.record(kind, stage=name, key=artifact.key, seconds=artifact.seconds, figures=figures)
        spend = sum((spend for roles in self.ledger.by_stage().values() for spend in roles.values()), Spend())
        if not artifact.reused and spend.calls:
            events.record(Kind.SPEND, tokens=spend.tokens, **spend.model_dump(include={"calls", "cached", "usd"}))
        print_stage(name, artifact.figures, artifact.seconds, artifact.reused, spend.usd)


@contextmanager
def _recorded(name: str) -> Iterator[None]:
    """Record the failure of a stage."""
    try:
        yield
    except Exception as error:
        events.record(Kind.STAGE_FAILED, stage=name, reason=f"{error}" or type(error).__name__)
        raise


def _announced(name: str, make: Callable[[Path], Mapping[str, Any]], directory: Path) -> Mapping[str, Any]:
    """Record the start of a stage that is not reused, and make its artifact."""
    events.record(Kind.STAGE_STARTED, stage=name)
    return make(directory)


def role_recipe(chat: ChatModel, config: TeacherConfig | JudgeConfig) -> dict[str, Any]:
    """Return what determines a role's completions: the model and the role's settings, not how it is reached."""
    settings = {
        name: value
        for name, value in asdict(config).items()
        if name not in NO_REPLY and not (name in UNUSED and value == UNUSED[name])
    }
    if isinstance(config, JudgeConfig):
        if not config.writes_notes:
            del settings["notes_max_tokens"]
        if len(config.models) > 1:
            settings["combine"] = config.panel.combine
    return {"model": chat.identity(), **settings}


def generation_recipe(student: StudentConfig) -> dict[str, Any]:
    """Return the settings that determine the student's responses."""
    return {
        "template": template_recipe(student),
        "max_new_tokens": student.max_new_tokens,
        "precision": student.precision,
        "engine": student.engine,
    }


def template_recipe(student: StudentConfig) -> list[Any]:
    """Return what determines the text around a conversation: the template, the system message, and the date in it."""
    # The templates of this package and that of the lab's student write no date.
    dated = student.chat_template is ChatTemplate.tokenizer and student.model != LAB_STUDENT
    return [student.chat_template, student.system_prompt, *([TEMPLATE_DATE] if dated else [])]


def stage_name(stage: str, round_number: int | None) -> str:
    """Return the name of a stage in the manifest, the ledger and the terminal."""
    return stage if round_number is None else f"{stage}-{round_number}"
