"""Stages that make a student: the base model, S_0 and the student of each round."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tapir_exp.config import BudgetConfig, LabStudentConfig, Method, StudentConfig
from tapir_exp.core.records import Example, Origin, Subset, TrainingExample
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
    kept_figures,
    settings_of,
    write_provenance,
)

LAB_STUDENT = "lab"


CORPUS_PER_CELL = 100
"""Problems of each family and level on which the base student's tokenizer is trained."""


def base_student(ws: Workspace) -> Artifact:
    """The untrained student of the lab, an ordinary Hugging Face directory."""
    from tapir_exp.lab.base_student import build_base_student

    config = ws.config.lab.student

    def make(directory: Path) -> Mapping[str, Any]:
        build_base_student(directory, config, lab_corpus(config))
        return {}

    return ws.directory("base_student", None, {"student": asdict(config), "lab": LAB_VERSION}, make)


def unpacked_student(ws: Workspace) -> Artifact:
    """The student of a GGUF file, turned into an ordinary Hugging Face directory once."""
    weights = find_weights(ws.config.student.model)

    def make(directory: Path) -> Mapping[str, Any]:
        from tapir_exp.student.gguf import convert

        convert(weights.path, directory)
        return {}

    return ws.directory("base_student", None, {"gguf": weights.sha256}, make)


def lab_corpus(config: LabStudentConfig) -> Iterator[str]:
    """The texts on which the base student's tokenizer is trained."""
    for problem in even_problems(CORPUS_PER_CELL, config.seed):
        yield from (problem.instruction, problem.terse, problem.refined)


@dataclass(frozen=True)
class ParentModel:
    """The student from which a fit goes on.

    path: directory or hub id. named: what provenance calls it. base: the model before any fit of ours. beside: the
    path of a base in the store as an adapter sees it; None where an adapter names its base as the configuration does.
    """

    path: Path
    named: ModelRef
    base: ModelRef
    beside: str | None = None


def base_model(ws: Workspace) -> tuple[ParentModel, dict[str, Any]]:
    """The student before any fit of ours, and what tells it from others."""
    config = ws.config.student
    base: dict[str, Any] = {"model": config.model, "revision": config.revision}
    named = _configured_ref(config)
    start = ParentModel(Path(config.model), named, named)
    if config.model == LAB_STUDENT or is_gguf(config.model):
        built = base_student(ws) if config.model == LAB_STUDENT else unpacked_student(ws)
        named = ModelRef(place=ModelLocation.STORE, name=built.name)
        start, base = ParentModel(built.path, named, named, built.beside), {"model": built.key}
    return start, base


def finetune_on_seeds(ws: Workspace, seeds: Artifact, start: ParentModel, base: Mapping[str, Any]) -> Artifact:
    """S_0: the base model fine-tuned on the seeds with their own responses."""
    rows = [_seed_row(seed) for seed in seeds.rows(Example)]
    return _finetune(ws, 0, start, rows, seeds, None, ws.config.sft.seed_stage, {"rows": seeds.key, **base})


def finetune_round(ws: Workspace, round_number: int, student: Artifact, mix: Artifact, alpha: float) -> Artifact:
    """S_r: the student fine-tuned on the round's mix with the alpha-weighted loss."""
    recipe = {"rows": mix.key, "parent": student.key, "alpha": alpha}
    known = Provenance.load(student.path)
    base = known.base if known else _configured_ref(ws.config.student)
    start = ParentModel(student.path, ModelRef(place=ModelLocation.STORE, name=student.name), base)
    rows = mix.rows(TrainingExample)
    return _finetune(ws, round_number, start, rows, mix, alpha, ws.config.sft.round_stage, recipe)


def _configured_ref(student: StudentConfig) -> ModelRef:
    place = ModelLocation.DIRECTORY if Path(student.model).is_dir() else ModelLocation.HUB
    return ModelRef(place=place, name=student.model, revision=student.revision)


def _finetune(
    ws: Workspace,
    round_number: int,
    start: ParentModel,
    rows: Sequence[TrainingExample],
    data: Artifact,
    alpha: float | None,
    budget: BudgetConfig,
    recipe: Mapping[str, Any],
) -> Artifact:
    config = ws.config
    student, trainer, seed = config.student, config.trainer, config.seed

    def make(directory: Path) -> Mapping[str, Any]:
        from tapir_exp.student.loading import AdapterBase
        from tapir_exp.student.training.encoding import TrainingRow
        from tapir_exp.student.training.train import finetune

        label, base = f"training S_{round_number}", None if start.beside is None else AdapterBase(start.beside)
        taught = [TrainingRow(row.instruction, row.response, row.subset) for row in rows]
        figures = asdict(
            finetune(start.path, taught, alpha, config.sft, budget, student, trainer, seed, directory, label, base)
        )
        write_provenance(directory, provenance(figures))
        return figures

    def provenance(figures: Mapping[str, Any]) -> Provenance:
        return Provenance(
            artifact=f"student/{recipe_key('student', recipe)}",
            base=start.base,
            parent=start.named,
            data=TrainingData(artifact=data.name, sha256=data.files[ROWS]),
            method=config.sft.method,
            alpha=alpha,
            seed=seed,
            precision=student.precision,
            settings=settings_of(student, trainer, config.sft, budget, alpha),
            figures=kept_figures(figures),
        )

    sft = {name: value for name, value in asdict(config.sft).items() if name not in ("start", "round")}
    recipe = {
        **recipe,
        "sft": sft,
        "budget": asdict(budget),
        "template": [student.chat_template, student.system_prompt, student.max_length],
        "precision": [student.precision, trainer.precision],
        "seed": seed,
        **({} if config.sft.method is Method.full else {"product": "adapter"}),  # earlier versions merged it
    }
    return ws.directory("student", round_number, recipe, make)


def _seed_row(seed: Example) -> TrainingExample:
    return TrainingExample(
        id=seed.id,
        instruction=seed.instruction,
        response=seed.response,
        task=None,
        subset=Subset.REST,
        origin=Origin.SEED,
        parents=(),
        created_in_round=0,
        difficulty=None,
    )
