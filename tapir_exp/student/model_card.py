"""Where a student comes from: `provenance.json` and the model card beside its weights.

Both depend on the recipe of the fit and its figures alone, never on place, time or run, since runs share students.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tapir_exp.config import BudgetConfig, ChatTemplate, Method, Precision, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.records import Record
from tapir_exp.core.store import write_text_atomic

PROVENANCE, CARD = "provenance.json", "README.md"
REPRODUCIBLE_FIGURES = ("steps", "rows", "tokens", "supervised_tokens", "truncated", "dropped", "final_loss")
"""Of a fit's figures those that a second making has too; its speed is not among them."""
PAPER, OURS = "paper", "ours"
PAPER_STUDENTS = {
    "meta-llama/Llama-2-7b": "LLaMA2-7B; base rather than chat weights are ours",
    "Qwen/Qwen1.5-": "the Qwen1.5-Chat series",
}
"""How the hub ids of the paper's students begin."""


class Setting(Record):
    """A setting of the fit; `whose`: the paper's or ours; `why`: how surely that is known."""

    name: str
    value: str
    whose: str
    reason: str


class ModelLocation(StrEnum):
    """Where a model is that a fit went on from."""

    HUB = "hub"
    DIRECTORY = "directory"
    STORE = "store"


class ModelRef(Record):
    """A model from which a fit went on; `name`: a hub id or directory as configured, or stage/key in the same store."""

    place: ModelLocation
    name: str
    revision: str | None = None


class TrainingData(Record):
    """The rows of the fit: their artifact in the same store, and the SHA-256 of its file of rows."""

    artifact: str
    sha256: str


class Provenance(Record):
    """What a student is and how it came about.

    artifact: stage/key in the store, where the key is the hash of the whole recipe. base: the model before any fit of
    ours. alpha: weight of the hard part in the loss; None for a plain loss. precision: of the base in the fit.
    merged_as: precision of an export, whose adapter was merged into its base; None for what the fit left.
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
        """Whether the directory holds an adapter only."""
        return self.method is not Method.full and self.merged_as is None

    @classmethod
    def load(cls, directory: Path) -> "Provenance | None":
        """What a student's directory says of its origin; None for a model from elsewhere."""
        path = directory / PROVENANCE
        return cls.model_validate_json(path.read_text()) if path.is_file() else None


def describe_settings(
    student: StudentConfig, trainer: TrainerConfig, sft: SFTConfig, budget: BudgetConfig, alpha: float | None
) -> tuple[Setting, ...]:
    """What the fit went by; what no primary source confirms is called ours."""
    lasted = f"{budget.epochs:g} epochs" if budget.epochs is not None else f"{budget.max_tokens} tokens"
    schedule = f"{sft.warmup_ratio:g} of the steps warm-up, then a cosine"
    settings = [
        _student_setting(student),
        _template_setting(student),
        _ours("system prompt", student.system_prompt or "none", "not known of the paper"),
        _ours("method", sft.method.value, "full is derived from the paper, not confirmed"),
        _ours("loss", "mean over supervised tokens" if alpha is None else "α · hard + (1 − α) · rest", "derived"),
        _ours("budget", lasted, _unconfirmed("3 epochs")),
        _ours("learning rate", f"{sft.learning_rate:g}", _unconfirmed("2e-5")),
        _ours("schedule", schedule, _unconfirmed("0.03 and a cosine")),
        _ours("weight decay", f"{sft.weight_decay:g}", _unconfirmed("0")),
        _ours("rows a step", str(sft.global_batch_size), _unconfirmed("128")),
        _ours("longest row, tokens", str(student.max_length), _unconfirmed("2048")),
        _ours("base's weights", student.precision.value, "not known of the paper"),
        _ours("computed in", trainer.precision, "not known of the paper"),
    ]
    if alpha is not None:
        settings.append(_ours("α", f"{alpha:g}", "its schedule is remembered of the paper, unconfirmed"))
    if sft.method is not Method.full:
        lora = sft.lora
        shape = f"rank {lora.rank}, alpha {lora.alpha}, dropout {lora.dropout:g}, on {', '.join(lora.target_modules)}"
        settings.append(_ours("adapter", shape, "the paper is not known to use any"))
    return tuple(settings)


def write_provenance(directory: Path, provenance: Provenance, *, command: str | None = None) -> None:
    """Write `provenance.json` and the model card; `command`: of the run, where there is one to tell."""
    text = json.dumps(provenance.model_dump(mode="json"), indent=1, ensure_ascii=False, sort_keys=True)
    write_text_atomic(directory / PROVENANCE, text + "\n")
    write_text_atomic(directory / CARD, render_model_card(provenance, command))


def render_model_card(provenance: Provenance, command: str | None) -> str:
    """The card in Markdown, with the head that the Hugging Face hub reads; its licence is left to the base's owner."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    head = yaml.safe_dump(_front_matter(provenance), sort_keys=True, allow_unicode=True)
    template = environment.get_template("model_card.md.jinja")
    return template.render(head=head, of=provenance, command=command)


def reproducible_figures(figures: Mapping[str, Any]) -> dict[str, float | int | None]:
    """Of a fit's figures those that any making of the same student has."""
    return {name: figures[name] for name in REPRODUCIBLE_FIGURES}


def _front_matter(provenance: Provenance) -> dict[str, Any]:
    head: dict[str, Any] = {
        "library_name": "peft" if provenance.is_adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["tapir", "distillation", "sft", *([] if provenance.method is Method.full else ["lora"])],
    }
    if provenance.base.place is ModelLocation.HUB:
        head["base_model"] = provenance.base.name
        head["base_model_relation"] = "adapter" if provenance.is_adapter else "finetune"
    return head


def _ours(name: str, value: str, reason: str) -> Setting:
    return Setting(name=name, value=value, whose=OURS, reason=reason)


def _unconfirmed(value: str) -> str:
    return f"not confirmed by the paper; neighbouring recipes have {value}"


def _student_setting(student: StudentConfig) -> Setting:
    reason = next((why for start, why in PAPER_STUDENTS.items() if student.model.startswith(start)), None)
    if reason is None:
        return _ours("student", student.model, "not one of the paper's")
    return Setting(name="student", value=student.model, whose=PAPER, reason=reason)


def _template_setting(student: StudentConfig) -> Setting:
    if student.chat_template is ChatTemplate.llama2:
        return Setting(name="chat template", value="llama2", whose=PAPER, reason="the official one of LLaMA-2")
    return _ours("chat template", student.chat_template.value, "the paper names LLaMA-2's only")
