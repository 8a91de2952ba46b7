"""Settings of the task classifier."""

from dataclasses import dataclass, field
from enum import Enum

from tapir_exp.config.llm import LLMConfig
from tapir_exp.config.student import Precision


class ClassifierKind(Enum):
    """Kind of classifier: a prompted chat model, an encoder with a linear head, or a fine-tuned DeBERTa-v3."""

    llm = "llm"
    encoder = "encoder"
    deberta = "deberta"


@dataclass
class ClassifierConfig:
    """The classifier of task types."""

    kind: ClassifierKind = ClassifierKind.llm
    """Kind of classifier."""
    llm: LLMConfig = field(default_factory=LLMConfig)
    """The chat model of kind llm."""
    max_tokens: int = 16
    """Length limit of a completion, in tokens (kind llm)."""
    max_failure_rate: float = 0.05
    """Share of unlabelled rows above which the stage stops, 0 to 1 (kind llm)."""
    path: str | None = None
    """Directory of a trained classifier, written by `tapir classify job=train`. Null trains the kind encoder on the
    examples of the package, which takes seconds."""
    min_confidence: float | None = None
    """Confidence below which a trained classifier gives no type, between 0 and 1; null gives every row a type. A row
    without a type stays in the fit on the seeds and leaves the rounds. The value of `classifier=minilm` is ours."""
    batch_size: int = 32
    """Texts per batch of a trained classifier."""
    precision: Precision = Precision.float32
    """Element type of the encoder's weights (kind encoder). On CPUs with AMX, bfloat16 is about three times as fast."""
