"""Settings of training a task classifier."""

from dataclasses import dataclass

from tapir_exp.config.classifier import ClassifierKind
from tapir_exp.config.student import Precision


@dataclass
class ClassifierFitConfig:
    """Training of a task classifier. The values are ours: the paper's recipe is not public."""

    kind: ClassifierKind = ClassifierKind.encoder
    """Kind of classifier: encoder or deberta."""
    encoder: str = "minilm"
    """Hugging Face directory, or a hub id for deberta; `minilm` is all-MiniLM-L6-v2 of the extra `local`."""
    revision: str | None = None
    """Commit or tag of a hub model; null uses the newest."""
    max_length: int = 256
    """Longest text, in tokens; longer texts are truncated."""
    batch_size: int = 16
    """Texts per batch; for deberta, per optimiser step."""
    class_weights: bool = True
    """Whether every type has the same weight in the loss, however few its rows."""
    regularization_c: float = 10.0
    """C of the logistic regression (kind encoder): a smaller value regularises more."""
    form_rules: bool = True
    """Whether the head also gets the form of the task (summary, extraction, rewriting ...), found by rules
    (kind encoder)."""
    precision: Precision = Precision.float32
    """Element type of the encoder's weights (kind encoder); the head is trained in float32."""
    epochs: int = 10
    """Largest number of epochs (kind deberta)."""
    patience: int = 2
    """Epochs without a better macro-F1 on the validation rows until training stops (kind deberta)."""
    validation_fraction: float = 0.1
    """Share of the rows for early stopping and temperature scaling, between 0 and 1 (kind deberta)."""
    learning_rate: float = 2e-5
    """Peak learning rate (kind deberta)."""
    weight_decay: float = 0.01
    """Weight decay of AdamW (kind deberta)."""
    warmup_ratio: float = 0.1
    """Share of the steps with a rising learning rate; then it decays linearly to 0 (kind deberta)."""
