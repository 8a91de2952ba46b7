"""Stages that make a student: the base model, S_0, and the student of each round."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tapir_exp.config import (
    BudgetConfig,
    Config,
    JudgedStudent,
    LabStudentConfig,
    OptimizerState,
    RoundStart,
    StudentConfig,
    WorldName,
)
from tapir_exp.config.lab_parts import LAB_STUDENT
from tapir_exp.core.records import Example, TrainingExample
from tapir_exp.core.store import ROWS, Artifact, recipe_key
from tapir_exp.core.stored_rows import LazySequence
from tapir_exp.lab.oracle import world_version
from tapir_exp.lab.world import even_problems
from tapir_exp.llm.serving.weights import find_weights, is_gguf
from tapir_exp.pipeline.workspace import Workspace, template_recipe
from tapir_exp.student.model_card import (
    OURS,
    ModelLocation,
    ModelRef,
    Provenance,
    Setting,
    TrainingData,
    describe_settings,
    reproducible_figures,
    write_provenance,
)
from tapir_exp.student.training.files import AVERAGE, OPTIMIZER_STATE
from tapir_exp.student.training.schedule import (
    Averaging,
    FitSchedule,
    annealing_budget,
    annealing_schedule,
    restart_schedule,
    round_schedule,
)

CORPUS_PER_CELL = 100
"""Problems of each family and level on which the tokenizer of the lab's base student is trained."""
BATCH_ORDER = "shuffled"
"""Order of the rows in `student.training.batching`, which is part of every fit's recipe."""
PER_FIT = (
    *("seed_stage", "round_stage"),
    *("learning_rate", "warmup_ratio", "lr_schedule", "decay_ratio", "peak_decay"),
    *("round_start", "optimizer_state", "average_checkpoints", "average_ratio", "judged_student", "anneal_ratio"),
)
"""Settings of `sft` that are resolved for each fit, so that fits for which they mean the same share an artifact."""
NO_AVERAGE = "the paper is not known to average weights"
STUDENT, JUDGED = "student", "judged_student"
"""Stages of the students as trained, and of those that are judged in their place."""


@dataclass(frozen=True)
class ParentModel:
    """The model that a fit continues.

    Attributes:
        path: Directory or hub id.
        ref: Its name in the provenance file.
        base: The model before any fine-tuning of this run.
        relative_path: Path of a base in the store as an adapter refers to it; None if an adapter names its base as the
            configuration does.
    """

    path: Path
    ref: ModelRef
    base: ModelRef
    relative_path: str | None = None


@dataclass(frozen=True)
class _Fit:
    """A fit of a run.

    Attributes:
        parent: The model that it continues.
        identity: Part of the recipe that identifies that model.
        rows: Training rows.
        data: Artifact that holds the rows.
        alpha: Weight of the hard set; None for a plain loss.
        budget: Length of the fit.
        schedule: Learning rate of each step.
        optimizer_state: State of Adam at the start, which belongs to the parent; None for a new one.
        save_optimizer_state: Whether a later fit needs the state of Adam at the end.
        averaging: Weights whose mean is saved; None for no average.
    """

    parent: ParentModel
    identity: Mapping[str, Any]
    rows: Sequence[TrainingExample]
    data: Artifact
    alpha: float | None
    budget: BudgetConfig
    schedule: FitSchedule
    optimizer_state: Path | None = None
    save_optimizer_state: bool = False
    averaging: Averaging | None = None


def base_model(ws: Workspace) -> tuple[ParentModel, dict[str, Any]]:
    """Return the student before any fine-tuning, and the recipe that identifies it."""
    config = ws.config.student
    if config.model == LAB_STUDENT or is_gguf(config.model):
        built = build_lab_student(ws) if config.model == LAB_STUDENT else convert_gguf_student(ws)
        ref = _stored(built)
        return ParentModel(built.path, ref, ref, built.relative_path), {"model": built.key}
    ref = _configured(config)
    return ParentModel(Path(config.model), ref, ref), {"model": config.model, "revision": config.revision}


def build_lab_student(ws: Workspace) -> Artifact:
    """Build the untrained student of the lab as an ordinary Hugging Face directory."""
    from tapir_exp.lab.base_student import build_base_student

    config, world = ws.config.lab.student, ws.config.lab.world

    def make(directory: Path) -> Mapping[str, Any]:
        build_base_student(directory, config, lab_corpus(config, world))
        return {}

    return ws.directory("base_student", None, {"student": asdict(config), "lab": world_version(world)}, make)


def convert_gguf_student(ws: Workspace) -> Artifact:
    """Convert the student of a GGUF file to an ordinary Hugging Face directory, once."""
    weights = find_weights(ws.config.student.model)

    def make(directory: Path) -> Mapping[str, Any]:
        from tapir_exp.student.gguf import convert_gguf

        convert_gguf(weights.path, directory)
        return {}

    return ws.directory("base_student", None, {"gguf": weights.sha256}, make)


def lab_corpus(config: LabStudentConfig, world: WorldName) -> Iterator[str]:
    """Yield the texts on which the tokenizer of the lab's base student is trained."""
    for problem in even_problems(CORPUS_PER_CELL, config.seed, world):
        yield from (problem.instruction, problem.terse, problem.refined)


def finetune_on_seeds(ws: Workspace, seeds: Artifact, parent: ParentModel, base: Mapping[str, Any]) -> Artifact:
    """Return S_0: the base model fine-tuned on the seeds with their own responses."""
    sft = ws.config.sft
    stored = seeds.stored_rows(Example)
    rows = LazySequence(len(stored), lambda index: TrainingExample.from_seed(stored[index]))
    budget = sft.seed_stage
    if budget.extra_rows:
        budget = BudgetConfig(epochs=(budget.epochs or 0.0) + budget.extra_rows / len(rows))
    return _finetune(ws, 0, _Fit(parent, base, rows, seeds, None, budget, restart_schedule(sft)))


def finetune_round(
    ws: Workspace, round_number: int, previous: Artifact, mix: Artifact, alpha: float, *, s0: Artifact
) -> Artifact:
    """Return S_r, fine-tuned on the round's mix with the alpha-weighted loss.

    Args:
        ws: The workspace of the run.
        round_number: The round r.
        previous: S_(r-1) as it was trained.
        mix: Rows of the round.
        alpha: Weight of the hard set.
        s0: S_0, from which `sft.round_start=s0` starts each round.
    """
    sft = ws.config.sft
    schedule = round_schedule(sft, round_number, ws.config.curriculum.rounds)
    match sft.round_start:
        case RoundStart.base:
            parent, identity = base_model(ws)
        case RoundStart.s0:
            parent, identity = _continued(ws, s0)
        case RoundStart.previous:
            parent, identity = _continued(ws, previous)
    carried = sft.optimizer_state is OptimizerState.carried
    has_branch = sft.judged_student is JudgedStudent.annealed and schedule.end_rate > 0
    averaged = sft.judged_student is JudgedStudent.average
    fit = _Fit(
        parent,
        identity,
        mix.rows(TrainingExample),
        mix,
        alpha,
        sft.round_stage,
        schedule,
        # S_0 has a schedule of its own, and its state of Adam belongs to the rate 0 at its end.
        optimizer_state=previous.path / OPTIMIZER_STATE if carried and round_number > 1 else None,
        save_optimizer_state=has_branch or (carried and round_number < ws.config.curriculum.rounds),
        averaging=Averaging(sft.average_checkpoints, sft.average_ratio) if averaged else None,
    )
    return _finetune(ws, round_number, fit)


def judged_student(ws: Workspace, round_number: int, student: Artifact, mix: Artifact, alpha: float) -> Artifact:
    """Return the weights of a round that are judged, evaluated and exported, by `sft.judged_student`.

    Args:
        ws: The workspace of the run.
        round_number: The round.
        student: The student of the round as it was trained.
        mix: Rows of the round.
        alpha: Weight of the hard set.
    """
    match ws.config.sft.judged_student:
        case JudgedStudent.annealed:
            return _anneal(ws, round_number, student, mix, alpha)
        case JudgedStudent.average:
            return _open_average(ws, round_number, student)
        case JudgedStudent.as_trained:
            return student


def _anneal(ws: Workspace, round_number: int, student: Artifact, mix: Artifact, alpha: float) -> Artifact:
    """Train on with a rate that falls to 0; if the round's own schedule ends at 0, return the student."""
    sft = ws.config.sft
    schedule = round_schedule(sft, round_number, ws.config.curriculum.rounds)
    if schedule.end_rate == 0:
        return student
    parent, identity = _continued(ws, student)
    budget = annealing_budget(sft)
    rows = mix.rows(TrainingExample)
    state = student.path / OPTIMIZER_STATE
    fit = _Fit(parent, identity, rows, mix, alpha, budget, annealing_schedule(schedule), optimizer_state=state)
    return _finetune(ws, round_number, fit, stage=JUDGED)


def _open_average(ws: Workspace, round_number: int, student: Artifact) -> Artifact:
    """Return the average that the fit saved beside the student, as a student of its own."""
    sft = ws.config.sft

    def make(directory: Path) -> Mapping[str, Any]:
        for source in sorted((student.path / AVERAGE).iterdir()):
            (directory / source.name).unlink(missing_ok=True)  # left over from a killed process
            _link_or_copy(source, directory / source.name)
        provenance = Provenance.load(student.path)
        assert provenance
        weights = f"mean of {sft.average_checkpoints} over the last {sft.average_ratio:g} of the steps"
        settings = (*provenance.settings, Setting(name="weights", value=weights, source=OURS, reason=NO_AVERAGE))
        name = f"{JUDGED}/{recipe_key(JUDGED, recipe)}"
        write_provenance(directory, provenance.model_copy(update={"artifact": name, "settings": settings}))
        return dict(student.figures)

    recipe = {"average_of": student.key}
    return ws.directory(JUDGED, round_number, recipe, make)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # the file system has no hard links
        shutil.copyfile(source, target)


def _continued(ws: Workspace, student: Artifact) -> tuple[ParentModel, dict[str, Any]]:
    """Return a student of this run as the parent of a fit, and the part of the recipe that identifies it."""
    known = Provenance.load(student.path)
    base = known.base if known else _configured(ws.config.student)
    return ParentModel(student.path, _stored(student), base), {"parent": student.key}


def _stored(artifact: Artifact) -> ModelRef:
    return ModelRef(location=ModelLocation.STORE, name=artifact.name)


def _configured(student: StudentConfig) -> ModelRef:
    location = ModelLocation.DIRECTORY if Path(student.model).is_dir() else ModelLocation.HUB
    return ModelRef(location=location, name=student.model, revision=student.revision)


def _finetune(ws: Workspace, round_number: int, fit: _Fit, stage: str = STUDENT) -> Artifact:
    config = ws.config
    recipe = _fit_recipe(config, fit)

    def make(directory: Path) -> Mapping[str, Any]:
        from tapir_exp.student.loading import AdapterBase
        from tapir_exp.student.training.encoding import TrainingRow
        from tapir_exp.student.training.job import FitJob
        from tapir_exp.student.training.train import finetune

        relative_path = fit.parent.relative_path
        job = FitJob(
            parent=fit.parent.path,
            sft=config.sft,
            budget=fit.budget,
            student=config.student,
            trainer=config.trainer,
            alpha=fit.alpha,
            seed=config.seed,
            label=f"{'training' if stage == STUDENT else 'annealing'} S_{round_number}",
            base=None if relative_path is None else AdapterBase(relative_path),
            schedule=fit.schedule,
            optimizer_state=fit.optimizer_state,
            save_optimizer_state=fit.save_optimizer_state,
            averaging=fit.averaging,
        )
        examples = LazySequence(
            len(fit.rows), lambda index: TrainingRow((row := fit.rows[index]).instruction, row.response, row.subset)
        )
        figures = asdict(finetune(job, examples, directory))
        write_provenance(directory, _provenance(config, fit, f"{stage}/{recipe_key(stage, recipe)}", figures))
        return figures

    return ws.directory(stage, round_number, recipe, make)


def _provenance(config: Config, fit: _Fit, artifact: str, figures: Mapping[str, Any]) -> Provenance:
    carried = fit.optimizer_state is not None
    return Provenance(
        artifact=artifact,
        base=fit.parent.base,
        parent=fit.parent.ref,
        data=TrainingData(artifact=fit.data.name, sha256=fit.data.files[ROWS]),
        method=config.sft.method,
        alpha=fit.alpha,
        seed=config.seed,
        precision=config.student.precision,
        settings=describe_settings(
            config.student, config.trainer, config.sft, fit.budget, fit.schedule, fit.alpha, carried=carried
        ),
        figures=reproducible_figures(figures),
    )


def _fit_recipe(config: Config, fit: _Fit) -> dict[str, Any]:
    """Return everything that determines the files of a fit."""
    # Settings of other fits must not change the key, so it holds what they mean for this one.
    sft = {name: value for name, value in asdict(config.sft).items() if name not in PER_FIT}
    student = config.student
    recipe = {
        **fit.identity,
        "rows": fit.data.key,
        "alpha": fit.alpha,
        "sft": sft,
        "budget": {"epochs": fit.budget.epochs, "max_tokens": fit.budget.max_tokens},
        "batches": BATCH_ORDER,
        "schedule": asdict(fit.schedule),
        "template": [*template_recipe(student), student.max_length],
        "precision": [student.precision, config.trainer.precision],
        "seed": config.seed,
    }
    if fit.optimizer_state is not None:
        recipe["optimizer_state"] = "carried"  # the parent's, whose key is in the recipe
    if fit.save_optimizer_state:
        recipe["saved"] = "optimizer state"
    if fit.averaging is not None:
        recipe["averaging"] = asdict(fit.averaging)
    return recipe
