"""Settings of the task classifier, and of the jobs of `tapir classify`."""

from dataclasses import dataclass, field
from enum import Enum

from tapir_exp.config.lab import LabConfig
from tapir_exp.config.llm import LLMConfig, SpendConfig
from tapir_exp.config.student import Precision
from tapir_exp.config.training import TrainerConfig


class ClassifierKind(Enum):
    """What names the task types: a chat model by prompt, an encoder with a linear head, or a DeBERTa-v3."""

    llm = "llm"
    encoder = "encoder"
    deberta = "deberta"


class ClassifyJob(Enum):
    """What `tapir-label` does: see its help."""

    label = "label"
    train = "train"
    evaluate = "evaluate"
    distil = "distil"


@dataclass
class ClassifierConfig:
    """The classifier of task types."""

    kind: ClassifierKind = ClassifierKind.llm
    llm: LLMConfig = field(default_factory=LLMConfig)
    """The chat model of kind llm."""
    max_tokens: int = 16
    """Length limit of a reply, in tokens."""
    max_failure_rate: float = 0.05
    """Share of rows that the chat model may leave unlabelled before the stage stops, 0 to 1."""
    path: str | None = None
    """Directory of a trained classifier, which `tapir-label job=train` wrote; null trains the kind encoder, in seconds, on
    the examples that come with the package."""
    batch_size: int = 32
    """Texts that a trained classifier reads at once."""
    precision: Precision = Precision.float32
    """Of the encoder's weights (kind encoder). On a processor with AMX, bfloat16 labels some three times as fast."""


@dataclass
class LabelledDataConfig:
    """Instructions whose task type is known, and how their file says so."""

    path: str | None = None
    """JSON or JSONL, one object a row; null takes the examples that come with the package, written for it."""
    instruction: str = "instruction"
    """Name of the field that holds the instruction."""
    input: str = "input"
    """Name of the field that holds its input, which follows the instruction as Alpaca does it; rows may lack it."""
    task: str = "task"
    """Name of the field that holds the type."""
    names: dict[str, str | None] = field(default_factory=dict)
    """The file's own names of types, each with the task type that it means; null leaves its rows out, counted."""


@dataclass
class ClassifierFitConfig:
    """How a classifier is trained; the values are ours, since the paper's recipe is not public."""

    kind: ClassifierKind = ClassifierKind.encoder
    encoder: str = "minilm"
    """Hugging Face directory, for deberta a hub id too; `minilm` is the all-MiniLM-L6-v2 of the extra `local`."""
    revision: str | None = None
    """Commit or tag of a hub model; null takes the newest."""
    max_length: int = 256
    """Tokens of a text that are read."""
    batch_size: int = 16
    """Texts read at once; for deberta, those of an optimiser step."""
    class_weights: bool = True
    """Whether every type weighs the same in the loss, however few its rows."""
    regularization_c: float = 10.0
    """C of the logistic regression (encoder): the smaller, the nearer to 0 its weights are held."""
    precision: Precision = Precision.float32
    """Of the encoder's weights (encoder); the head is fit in float32 either way."""
    epochs: int = 10
    """Passes over the rows at most (deberta)."""
    patience: int = 2
    """Passes without a better macro-F1 on the validation rows after which the fit stops (deberta)."""
    validation_fraction: float = 0.1
    """Share of the training rows that stop the fit and set the temperature (deberta), between 0 and 1."""
    learning_rate: float = 2e-5
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    """Share of the steps in which the learning rate rises; then it falls by a line to 0."""


@dataclass
class ClassifyConfig:
    """One job of `tapir-label`."""

    job: ClassifyJob = ClassifyJob.label
    output_dir: str = "outputs/labelling"
    """Directory of what the job writes."""
    outputs: str = "outputs"
    """Directory of the store, whose cache of replies the jobs share with the runs."""
    seed: int = 0
    """Seed of every draw: sample, folds, resamples, fits."""
    spend: SpendConfig = field(default_factory=SpendConfig)
    lab: LabConfig = field(default_factory=LabConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """The classifier that labels, is evaluated, or teaches (distil)."""
    pool: str | None = None
    """JSON or JSONL of instructions, Alpaca's fields (label, distil)."""
    sample: int = 3000
    """Rows of the pool that the teaching classifier labels (distil)."""
    classifier_data: LabelledDataConfig = field(default_factory=LabelledDataConfig)
    """What a classifier is trained on (train), or measured by (evaluate)."""
    classifier_training: ClassifierFitConfig = field(default_factory=ClassifierFitConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    folds: int = 5
    """Parts into which the rows are cut, every type evenly; a part is labelled by a classifier fit on the others."""
    folds_evaluated: int | None = None
    """Parts that are labelled so, for the figures; null takes them all. The classifier kept is fit on all rows."""
    bootstrap_samples: int = 1000
    """Bootstrap resamples of the intervals."""
