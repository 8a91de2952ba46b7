"""The origin of a student: `provenance.json` and the model card, which are saved with its weights.

Both depend only on the recipe and the figures of the fit, not on path, time or run, since runs share students.
"""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tapir_exp.config import BudgetConfig, ChatTemplate, Method, Precision, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.markup import escape_markdown, markdown_code
from tapir_exp.core.records import Record
from tapir_exp.core.store import write_text_atomic
from tapir_exp.core.text import escape_controls
from tapir_exp.student.training.schedule import FitSchedule

PROVENANCE, CARD = "provenance.json", "README.md"
REPRODUCIBLE_FIGURES = ("steps", "rows", "tokens", "supervised_tokens", "truncated", "dropped", "final_loss")
"""Figures of a fit that a repetition reproduces, so not its speed."""
PAPER, OURS = "paper", "ours"
PAPER_STUDENTS = {
    "meta-llama/Llama-2-7b": "LLaMA2-7B; the choice of base rather than chat weights is ours",
    "Qwen/Qwen1.5-": "the Qwen1.5-Chat series",
}
"""Prefixes of the hub ids of the paper's students, with a remark on each."""


class Setting(Record):
    """A setting of the fit.

    Attributes:
        name: What the setting is.
        value: Its value in this fit.
        source: Source of the value: `PAPER` or `OURS`.
        reason: How certain that source is.
    """

    name: str
    value: str
    source: str
    reason: str


class ModelLocation(StrEnum):
    """Kinds of places that hold a model."""

    HUB = "hub"
    DIRECTORY = "directory"
    STORE = "store"


class ModelRef(Record):
    """A model that a fit started from.

    Attributes:
        location: Where the model is: hub, directory or store.
        name: A hub id or directory as configured, or stage/key in the same store.
        revision: Commit of a hub model.
    """

    location: ModelLocation
    name: str
    revision: str | None = None


class TrainingData(Record):
    """The training rows of a fit.

    Attributes:
        artifact: stage/key of the rows in the same store.
        sha256: SHA-256 of the artifact's `rows.jsonl`.
    """

    artifact: str
    sha256: str


class Provenance(Record):
    """A student's origin.

    Attributes:
        artifact: stage/key in the store; the key is the hash of the whole recipe.
        base: The model before any fit of ours.
        parent: The model that this fit started from.
        data: The training rows.
        method: Full fine-tuning, LoRA or QLoRA.
        alpha: Weight of the hard subset in the loss; None for a plain loss.
        seed: Seed of the fit.
        precision: Precision of the base's weights in the fit.
        settings: Settings of the fit, with their sources.
        figures: Reproducible figures of the fit.
        merged_as: Precision of an export that merged the adapter into its base; None for the student as trained.
    """

    artifact: str
    base: ModelRef
    parent: ModelRef
    data: TrainingData
    method: Method
    alpha: float | None
    seed: int
    precision: Precision
    settings: tuple[Setting, ...]
    figures: dict[str, float | int | None]
    merged_as: str | None = None

    @property
    def is_adapter(self) -> bool:
        """Return True if the directory holds only an adapter."""
        return self.method is not Method.full and self.merged_as is None

    @classmethod
    def load(cls, directory: Path) -> "Provenance | None":
        """Read the provenance of a student's directory; None for a model that is not ours."""
        path = directory / PROVENANCE
        return cls.model_validate_json(path.read_text()) if path.is_file() else None


def describe_settings(
    student: StudentConfig,
    trainer: TrainerConfig,
    sft: SFTConfig,
    budget: BudgetConfig,
    schedule: FitSchedule,
    alpha: float | None,
    *,
    carried: bool = False,
) -> tuple[Setting, ...]:
    """Return the settings of a fit; those that no primary source confirms are called ours.

    Args:
        student: Base model and its format.
        trainer: Precision of the training.
        sft: Method, optimiser and batches.
        budget: Length of the fit.
        schedule: Learning rate of each step.
        alpha: Weight of the hard set; None for a plain loss.
        carried: Whether the state of Adam comes from the parent's fit.
    """
    length = f"{budget.epochs:g} epochs" if budget.epochs is not None else f"{budget.max_tokens} tokens"
    settings = [
        _student_setting(student),
        _template_setting(student),
        _ours("system prompt", student.system_prompt or "none", "the paper's is not known"),
        _ours("method", sft.method.value, "full fine-tuning is derived from the paper, not confirmed"),
        _ours("loss", "mean over supervised tokens" if alpha is None else "α · hard + (1 − α) · rest", "derived"),
        _ours("length of training", length, _unconfirmed("3 epochs")),
        _ours("learning rate", f"{schedule.peak:g}", _unconfirmed("2e-5")),
        _ours("schedule", schedule.describe(), _unconfirmed("0.03 and a cosine")),
        _ours("β₂ of AdamW", f"{sft.beta2:g}", "the paper's is not known"),
        _ours("state of AdamW at the start", "that of the parent's fit" if carried else "new", "not known"),
        _ours("weight decay", f"{sft.weight_decay:g}", _unconfirmed("0")),
        _ours("global batch size", str(sft.global_batch_size), _unconfirmed("128")),
        _ours("max length, tokens", str(student.max_length), _unconfirmed("2048")),
        _ours("precision of the base weights", student.precision.value, "the paper's is not known"),
        _ours("training precision", trainer.precision, "the paper's is not known"),
    ]
    if alpha is not None:
        settings.append(_ours("α", f"{alpha:g}", "its schedule is recalled from the paper, not confirmed"))
    if sft.method is not Method.full:
        lora = sft.lora
        shape = f"rank {lora.rank}, alpha {lora.alpha}, dropout {lora.dropout:g}, on {', '.join(lora.target_modules)}"
        settings.append(_ours("adapter", shape, "the paper is not known to use an adapter"))
    return tuple(settings)


def write_provenance(directory: Path, provenance: Provenance, *, command: str | None = None) -> None:
    """Write `provenance.json` and the model card.

    Args:
        directory: Directory of the student.
        provenance: Its origin.
        command: Command of the run, which the card shows; None to name the artifact only.
    """
    text = json.dumps(provenance.model_dump(mode="json"), indent=1, ensure_ascii=False, sort_keys=True)
    write_text_atomic(directory / PROVENANCE, text + "\n")
    write_text_atomic(directory / CARD, render_model_card(provenance, command))


def render_model_card(provenance: Provenance, command: str | None) -> str:
    """Return the card in Markdown, with the front matter that the Hugging Face hub reads.

    The front matter has no licence, since the licence is that of the base model.
    """
    # With StrictUndefined, a missing field raises an error instead of leaving a gap in the card.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters |= {"md": escape_markdown, "code": markdown_code, "console": _console_block}
    front_matter = yaml.safe_dump(_front_matter(provenance), sort_keys=True, allow_unicode=True)
    template = environment.get_template("model_card.md.jinja")
    return template.render(front_matter=front_matter, provenance=provenance, command=command)


def _console_block(command: str) -> str:
    """Return a command as a block of code, with a longer fence than any that the command holds."""
    text = escape_controls(command).replace("\n", r"\n")
    fence = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{fence}console\n$ {text}\n{fence}"


def reproducible_figures(figures: Mapping[str, Any]) -> dict[str, float | int | None]:
    """Return the figures of a fit that every repetition of it reproduces."""
    return {name: figures[name] for name in REPRODUCIBLE_FIGURES}


def _front_matter(provenance: Provenance) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "library_name": "peft" if provenance.is_adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["tapir", "distillation", "sft", *([] if provenance.method is Method.full else ["lora"])],
    }
    # The hub resolves a base model by its id, so a directory is not named.
    if provenance.base.location is ModelLocation.HUB:
        fields["base_model"] = provenance.base.name
        fields["base_model_relation"] = "adapter" if provenance.is_adapter else "finetune"
    return fields


def _ours(name: str, value: str, reason: str) -> Setting:
    return Setting(name=name, value=value, source=OURS, reason=reason)


def _unconfirmed(value: str) -> str:
    return f"not confirmed by the paper; comparable recipes use {value}"


def _student_setting(student: StudentConfig) -> Setting:
    reason = next((remark for prefix, remark in PAPER_STUDENTS.items() if student.model.startswith(prefix)), None)
    if reason is None:
        return _ours("student", student.model, "not a student of the paper")
    return Setting(name="student", value=student.model, source=PAPER, reason=reason)


def _template_setting(student: StudentConfig) -> Setting:
    if student.chat_template is ChatTemplate.llama2:
        return Setting(name="chat template", value="llama2", source=PAPER, reason="the official template of LLaMA-2")
    return _ours("chat template", student.chat_template.value, "the paper names only that of LLaMA-2")
