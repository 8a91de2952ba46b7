"""Python interface: compose a configuration, carry out a run, and read a finished run.

Example:
    >>> import tapir_exp
    >>> config = tapir_exp.compose(["debug=tiny", "seed=3"])
    >>> run = tapir_exp.run(config)
    >>> run.metrics[-1]["benchmark/accuracy"]
    >>> gaps = run.rows("verdicts-0").to_pandas()
    >>> print(run.lineage(gaps["id"][0]))
    >>> model, tokenizer = run.student()

The names are also attributes of `tapir_exp`. They work in notebooks, too, whose thread runs an event loop.
Heavy libraries are imported by the calls that need them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tapir_exp.config import Config, StudentConfig, to_yaml
from tapir_exp.core.errors import ConfigError, StoreError
from tapir_exp.core.events import EVENTS, EventStream
from tapir_exp.core.file_names import file_name, text_digest
from tapir_exp.core.manifest import Manifest
from tapir_exp.core.records import (
    BenchmarkResult,
    Example,
    Label,
    Quota,
    Rating,
    Record,
    Response,
    ResponseLoss,
    TrainingExample,
    Verdict,
)
from tapir_exp.core.store import ROWS, Artifact
from tapir_exp.core.yaml_files import read_yaml

if TYPE_CHECKING:
    import pyarrow as pa

STAGES: Mapping[str, type[Record]] = {
    "seeds": Example,
    "seeds_with_responses": Example,
    "task_labels": Label,
    "teacher_responses": Response,
    "judge_check": Verdict,
    "student_responses": Response,
    "base_responses": Response,
    "verdicts": Verdict,
    "rollouts": Response,
    "rollout_verdicts": Verdict,
    "ratings": Rating,
    "losses": ResponseLoss,
    "expansions": TrainingExample,
    "plan": Quota,
    "train_mix": TrainingExample,
    "replayed_mix": TrainingExample,
    "benchmark": BenchmarkResult,
    "held_out": Example,
    "held_out_teacher_responses": Response,
    "held_out_student_responses": Response,
    "held_out_verdicts": Verdict,
    "held_out_losses": ResponseLoss,
}
"""Record of the rows of each stage. `fresh_` and `passN_` before the name of a stage change no record."""
PREFIXES = re.compile(r"^(?:pass\d+_)?(?:fresh_)?")
LIFE = (
    *("seeds", "expansions", "task_labels", "teacher_responses"),
    *("fresh_student_responses", "fresh_verdicts", "train_mix", "student_responses", "verdicts"),
)
"""Stages in the life of a row, in the order within a round."""
NOT_IN_NAME = ("outputs", "spend", "logger", "sweep", "allow_lab_parts", "check_first_rows")
"""Sections of the configuration that change no result, and so no run directory."""
SHOWN = 70
"""Characters of a text in the lines of a lineage."""


def compose(overrides: Sequence[str] = ()) -> Config:
    """Compose and check the configuration of one run, as `tapir run` does.

    Args:
        overrides: Overrides as on the command line, such as `["teacher=gpt_4o", "curriculum.delta=1"]`.

    Raises:
        ConfigError: With every mistake: key, value, what was expected, and what set it.
    """
    if isinstance(overrides, str):
        raise ConfigError([f"{overrides!r}: expected a list of overrides, such as [{overrides!r}]"])
    from tapir_exp.commands.command_line import compose_jobs

    jobs = compose_jobs(list(overrides))
    if len(jobs) != 1:
        raise ConfigError([f"{len(jobs)} jobs: expected the overrides of one run; compose one after the other"])
    return jobs[0]


def run(config: Config, run_dir: Path | str | None = None) -> "Run":
    """Carry out a run, and return it. A run that is finished, or was interrupted, reuses what it has done.

    Args:
        config: A configuration from `compose`. Use `dataclasses.replace` to change it.
        run_dir: Directory of the run; None derives one in `config.outputs` from the settings, so that the same
            configuration resumes its own work.

    Raises:
        TapirError: If the run fails for a reason that the user can fix.
    """
    from tapir_exp.commands import run_job
    from tapir_exp.commands.finished import job_key
    from tapir_exp.commands.main import DEFAULT_COMMAND
    from tapir_exp.commands.recording import recorded_job
    from tapir_exp.commands.tracking import tracked_job

    directory = _run_dir(config) if run_dir is None else Path(run_dir)
    directory.mkdir(parents=True, exist_ok=True)
    stream = EventStream(directory / EVENTS)
    key = job_key(config, DEFAULT_COMMAND)
    with recorded_job(stream) as fields, tracked_job(config, directory, DEFAULT_COMMAND, key, stream):
        outcome = run_job.run(config, directory, to_yaml(config))
        fields.update(key=key, figure=outcome.figure, value=outcome.value)
    return open_run(directory)


def open_run(path: Path | str) -> "Run":
    """Open a finished run, such as `outputs/latest`. Rows and models are read on first use.

    Raises:
        StoreError: If the directory holds no finished run.
    """
    directory = Path(path).resolve()
    return Run(directory, Manifest.load(directory))


class Student(NamedTuple):
    """A student as a model of Hugging Face; an adapter is merged into its base.

    Attributes:
        model: A `transformers.PreTrainedModel`.
        tokenizer: A `transformers.PreTrainedTokenizerBase` with the chat template of the training.
    """

    model: Any
    tokenizer: Any


@dataclass(frozen=True)
class LineageStep:
    """What one stage recorded of a row.

    Attributes:
        stage: Name of the artifact, such as `verdicts-1`.
        round: Round of the stage; 0 before the first round.
        record: The row in that artifact.
    """

    stage: str
    round: int
    record: Record

    def __str__(self) -> str:
        """Return one line: stage, and its main fields."""
        return f"{self.stage:<26} {_describe(self.record)}"


@dataclass(frozen=True)
class Lineage:
    """Everything that a run recorded of one row, from its origin to its last verdict.

    Attributes:
        id: The row.
        steps: What each stage recorded, oldest first.
        parents: Ids of the rows in the teacher's prompt for this one; empty for a seed.
    """

    id: str
    steps: tuple[LineageStep, ...]
    parents: tuple[str, ...]

    @property
    def gaps(self) -> dict[str, float | None]:
        """Return the gap of each verdict, by the name of its stage; None if it is unscored."""
        return {step.stage: step.record.gap for step in self.steps if isinstance(step.record, Verdict)}

    def __str__(self) -> str:
        """Return one line for each step."""
        parents = f" from {', '.join(self.parents)}" if self.parents else ""
        return "\n".join([f"{self.id}{parents}", *(f"  {step}" for step in self.steps)])


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: The run directory.
        manifest: Which artifacts the run used, and its curriculum.
    """

    path: Path
    manifest: Manifest

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Return the resolved configuration of the run, as plain data."""
        settings: Mapping[str, Any] = read_yaml(self.path / "config.yaml")
        return settings

    @cached_property
    def metrics(self) -> tuple[Mapping[str, Any], ...]:
        """Return the metrics of each student, S_0 first; the reference explains each name."""
        text = (self.path / "metrics.jsonl").read_text(encoding="utf-8")
        return tuple(json.loads(line) for line in text.splitlines())

    @property
    def rounds(self) -> range:
        """Return the numbers of the rounds; 0 is the fit on the seeds."""
        return range(len(self.manifest.alphas) + 1)

    @cached_property
    def artifacts(self) -> Mapping[str, Artifact]:
        """Return the artifacts of the run by name, checked against their digests."""
        return self.manifest.open(self.path)

    @property
    def stages(self) -> tuple[str, ...]:
        """Return the names of the artifacts that hold rows, in the order of their last use."""
        return tuple(name for name, artifact in self.artifacts.items() if (artifact.path / ROWS).is_file())

    def rows(self, stage: str) -> "pa.Table":
        """Return the rows of a stage as an Arrow table; `.to_pandas()` makes it a data frame. Verdicts have a `gap`.

        Args:
            stage: Name of an artifact, such as `seeds`, `verdicts-0` or `train_mix-2`; `stages` lists them.

        Raises:
            StoreError: If the run has no such rows.
        """
        import pyarrow as pa

        records = self.records(stage)
        if not records:
            return pa.table({name: pa.array([], pa.null()) for name in record_of(stage).model_fields})
        computed = [{"gap": row.gap} if isinstance(row, Verdict) else {} for row in records]
        dumped = [row.model_dump(mode="json") for row in records]
        return pa.Table.from_pylist([{**row, **more} for row, more in zip(dumped, computed, strict=True)])

    def records(self, stage: str) -> Sequence[Record]:
        """Return the rows of a stage as typed records; see `rows`."""
        if stage not in self.artifacts or not (self.artifacts[stage].path / ROWS).is_file():
            raise StoreError(f"{self.path} has no rows of {stage!r}; expected one of {', '.join(self.stages)}")
        return _read(self.artifacts[stage].path, record_of(stage))

    def lineage(self, row_id: str) -> Lineage:
        """Return everything that the run recorded of a row.

        Args:
            row_id: The id of a seed or of an expansion, or a beginning of it that no other id shares.

        Raises:
            StoreError: If the run has no such row, or several.
        """
        found = self._find(row_id)
        steps = [step for number in self.rounds for stage in LIFE for step in self._step(found, stage, number)]
        origin = steps[0].record if steps else None
        parents = origin.parents if isinstance(origin, Example | TrainingExample) else ()
        return Lineage(found, tuple(steps), parents)

    def student(self, round_number: int | None = None) -> Student:
        """Load a student and its tokenizer.

        Args:
            round_number: The round after which it was judged; None takes the last one.

        Raises:
            StoreError: If the run has no such student.
            ConfigError: If it cannot be loaded.
        """
        from tapir_exp.student.loading import load_model, load_tokenizer
        from tapir_exp.student.model_card import Provenance

        path = self.student_path(round_number)
        provenance = Provenance.load(path)
        settings = StudentConfig(model=str(path))
        if provenance is not None:
            settings.precision = provenance.precision
        return Student(load_model(path, settings), load_tokenizer(path, settings))

    def student_path(self, round_number: int | None = None) -> Path:
        """Return the directory of a student: a Hugging Face model, or an adapter of PEFT; see `student`."""
        number = self.rounds[-1] if round_number is None else round_number
        for name in (f"judged_student-{number}", f"student-{number}"):
            if name in self.artifacts:
                return self.artifacts[name].path
        raise StoreError(f"{self.path} has no student of round {number}; expected 0 to {self.rounds[-1]}")

    def _find(self, row_id: str) -> str:
        names = [name for name in self.stages if _stage(name) in ("seeds", "expansions")]
        found = sorted({key for name in names for key in self._by_id(name) if key.startswith(row_id)})
        if row_id in found or len(found) == 1:
            return row_id if row_id in found else found[0]
        kind = f"{len(found)} rows" if found else "no row"
        raise StoreError(f"{self.path} has {kind} whose id begins with {row_id!r}; expected the id of one row")

    def _step(self, row_id: str, stage: str, number: int) -> list[LineageStep]:
        entries = [e.name for e in self.manifest.artifacts if (e.stage, e.round) == (stage, number)]
        return [LineageStep(e, number, self._by_id(e)[row_id]) for e in entries if row_id in self._by_id(e)]

    def _by_id(self, stage: str) -> Mapping[str, Record]:
        return _index(self.artifacts[stage].path, record_of(stage))


def record_of(stage: str) -> type[Record]:
    """Return the record of the rows of a stage. Raises StoreError if the stage is unknown."""
    name = PREFIXES.sub("", _stage(stage))
    if name not in STAGES:
        raise StoreError(f"{stage}: expected one of {', '.join(STAGES)}, with the number of a round")
    return STAGES[name]


def _stage(name: str) -> str:
    """Return the stage of an artifact's name, which ends with the round."""
    return re.sub(r"-\d+$", "", name)


@cache
def _read(directory: Path, record: type[Record]) -> tuple[Record, ...]:
    # An artifact never changes, so its rows are kept.
    return tuple(Artifact(directory.parent.name, directory.name, directory, {}, {}, 0.0, True).rows(record))


@cache
def _index(directory: Path, record: type[Record]) -> Mapping[str, Record]:
    return {str(getattr(row, "id", number)): row for number, row in enumerate(_read(directory, record))}


def _run_dir(config: Config) -> Path:
    settings = {name: value for name, value in asdict(config).items() if name not in NOT_IN_NAME}
    name = f"{file_name(config.name)}-{text_digest(json.dumps(settings, sort_keys=True, default=str))}"
    return Path(config.outputs) / "runs" / name


def _describe(record: Record) -> str:
    """Describe a row in a few words: scores and decisions first, then the beginning of its text."""
    match record:
        case Label():
            return str(record.task) if record.task else f"unlabelled: {record.failure}"
        case Verdict(gap=None):
            return "unscored"
        case Verdict():
            return f"teacher {record.teacher:g}, student {record.student:g}, gap {record.gap:g}"
        case Response():
            return _shorten(record.text if record.text is not None else f"no response: {record.failure}")
        case TrainingExample():
            gap = "no gap yet" if record.difficulty is None else f"difficulty {record.difficulty:g}"
            return f"{record.subset}, {record.task}, {gap}: {_shorten(record.response)}"
        case Example():
            return _shorten(record.instruction)
    return _shorten(record.model_dump_json())


def _shorten(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN else f"{flat[: SHOWN - 1]}…"
