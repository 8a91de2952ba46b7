"""Stages that make a student: the base model, S_0, and the student of each round."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tapir_exp.config import BudgetConfig, Config, LabStudentConfig, StudentConfig
from tapir_exp.core.records import Example, TrainingExample
from tapir_exp.core.store import ROWS, Artifact, recipe_key
from tapir_exp.lab.oracle import LAB_VERSION
from tapir_exp.lab.world import even_problems
from tapir_exp.llm.serving.weights import find_weights, is_gguf
from tapir_exp.pipeline.workspace import Workspace
from tapir_exp.student.model_card import (
    ModelLocation,
    ModelRef,
    Provenance,
    TrainingData,
    describe_settings,
    reproducible_figures,
    write_provenance,
)
from tapir_exp.student.training.schedule import FitSchedule, restart_schedule, round_schedule

LAB_STUDENT = "lab"
CORPUS_PER_CELL = 100
"""Problems of each family and level on which the tokenizer of the lab's base student is trained."""
BATCH_ORDER = "shuffled"
"""Order of the rows in `student.training.batching`, which is part of every fit's recipe."""
PER_FIT = (
    *("seed_stage", "round_stage"),
    *("learning_rate", "warmup_ratio", "lr_schedule", "decay_ratio", "peak_decay"),
)
"""Settings of `sft` that are resolved for each fit: its budget and its `FitSchedule`."""


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

    config = ws.config.lab.student

    def make(directory: Path) -> Mapping[str, Any]:
        build_base_student(directory, config, lab_corpus(config))
        return {}

    return ws.directory("base_student", None, {"student": asdict(config), "lab": LAB_VERSION}, make)


def convert_gguf_student(ws: Workspace) -> Artifact:
    """Convert the student of a GGUF file to an ordinary Hugging Face directory, once."""
    weights = find_weights(ws.config.student.model)

    def make(directory: Path) -> Mapping[str, Any]:
        from tapir_exp.student.gguf import convert_gguf

        convert_gguf(weights.path, directory)
        return {}

    return ws.directory("base_student", None, {"gguf": weights.sha256}, make)


def lab_corpus(config: LabStudentConfig) -> Iterator[str]:
    """Yield the texts on which the tokenizer of the lab's base student is trained."""
    for problem in even_problems(CORPUS_PER_CELL, config.seed):
        yield from (problem.instruction, problem.terse, problem.refined)


def finetune_on_seeds(ws: Workspace, seeds: Artifact, parent: ParentModel, base: Mapping[str, Any]) -> Artifact:
    """Return S_0: the base model fine-tuned on the seeds with their own responses."""
    rows = [TrainingExample.from_seed(seed) for seed in seeds.rows(Example)]
    sft = ws.config.sft
    inputs = {"rows": seeds.key, **base}
    return _finetune(ws, 0, parent, rows, seeds, None, sft.seed_stage, restart_schedule(sft), inputs)


def finetune_round(ws: Workspace, round_number: int, student: Artifact, mix: Artifact, alpha: float) -> Artifact:
    """Return S_r: the student of round r - 1 fine-tuned on the round's mix with the alpha-weighted loss."""
    known = Provenance.load(student.path)
    base = known.base if known else _configured(ws.config.student)
    parent = ParentModel(student.path, _stored(student), base)
    inputs = {"rows": mix.key, "parent": student.key, "alpha": alpha}
    rows = mix.rows(TrainingExample)
    sft = ws.config.sft
    schedule = round_schedule(sft, round_number, ws.config.curriculum.rounds)
    return _finetune(ws, round_number, parent, rows, mix, alpha, sft.round_stage, schedule, inputs)


def _stored(artifact: Artifact) -> ModelRef:
    return ModelRef(location=ModelLocation.STORE, name=artifact.name)


def _configured(student: StudentConfig) -> ModelRef:
    location = ModelLocation.DIRECTORY if Path(student.model).is_dir() else ModelLocation.HUB
    return ModelRef(location=location, name=student.model, revision=student.revision)


def _finetune(
    ws: Workspace,
    round_number: int,
    parent: ParentModel,
    rows: Sequence[TrainingExample],
    data: Artifact,
    alpha: float | None,
    budget: BudgetConfig,
    schedule: FitSchedule,
    inputs: Mapping[str, Any],
) -> Artifact:
    config = ws.config
    student, trainer = config.student, config.trainer
    recipe = _fit_recipe(config, budget, schedule, inputs)

    def make(directory: Path) -> Mapping[str, Any]:
        from tapir_exp.student.loading import AdapterBase
        from tapir_exp.student.training.encoding import TrainingRow
        from tapir_exp.student.training.job import FitJob
        from tapir_exp.student.training.train import finetune

        job = FitJob(
            parent=parent.path,
            sft=config.sft,
            budget=budget,
            student=student,
            trainer=trainer,
            alpha=alpha,
            seed=config.seed,
            label=f"training S_{round_number}",
            base=None if parent.relative_path is None else AdapterBase(parent.relative_path),
            schedule=schedule,
        )
        examples = [TrainingRow(row.instruction, row.response, row.subset) for row in rows]
        figures = asdict(finetune(job, examples, directory))
        provenance = Provenance(
            artifact=f"student/{recipe_key('student', recipe)}",
            base=parent.base,
            parent=parent.ref,
            data=TrainingData(artifact=data.name, sha256=data.files[ROWS]),
            method=config.sft.method,
            alpha=alpha,
            seed=config.seed,
            precision=student.precision,
            settings=describe_settings(student, trainer, config.sft, budget, schedule, alpha),
            figures=reproducible_figures(figures),
        )
        write_provenance(directory, provenance)
        return figures

    return ws.directory("student", round_number, recipe, make)


def _fit_recipe(
    config: Config, budget: BudgetConfig, schedule: FitSchedule, inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return everything that determines the weights of a fit."""
    # Settings of other fits must not change the key, so it holds what they mean for this one.
    sft = {name: value for name, value in asdict(config.sft).items() if name not in PER_FIT}
    student = config.student
    return {
        **inputs,
        "sft": sft,
        "budget": asdict(budget),
        "schedule": asdict(schedule),
        "batches": BATCH_ORDER,
        "template": [student.chat_template, student.system_prompt, student.max_length],
        "precision": [student.precision, config.trainer.precision],
        "seed": config.seed,
    }
