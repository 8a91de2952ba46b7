"""Settings of a job of `tapir classify`."""

from dataclasses import dataclass, field
from enum import Enum

from tapir_exp.config.classifier import ClassifierConfig
from tapir_exp.config.classifier_data import LabelledDataConfig
from tapir_exp.config.classifier_training import ClassifierFitConfig
from tapir_exp.config.lab import LabConfig
from tapir_exp.config.llm import SpendConfig
from tapir_exp.config.logger import LoggerConfig
from tapir_exp.config.trainer import TrainerConfig


class ClassifyJob(Enum):
    """Job of `tapir classify`, described in its help."""

    label = "label"
    train = "train"
    evaluate = "evaluate"
    distil = "distil"


@dataclass
class ClassifyConfig:
    """One job of `tapir classify`."""

    job: ClassifyJob = ClassifyJob.label
    """The job."""
    output_dir: str = "outputs/classification"
    """Directory of the results."""
    outputs: str = "outputs"
    """Directory of the store; cached completions are shared with the runs."""
    seed: int = 0
    """Seed of samples, folds, bootstrap and training."""
    spend: SpendConfig = field(default_factory=SpendConfig)
    """Spend limits of the job."""
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    """Trackers of the job; none by default."""
    lab: LabConfig = field(default_factory=LabConfig)
    """The synthetic lab, for `classifier=lab`."""
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """The classifier that labels, is evaluated, or teaches (distil)."""
    pool: str | None = None
    """JSON or JSON lines of instructions with Alpaca's fields (label, distil)."""
    sample: int = 3000
    """Rows of the pool that the teaching classifier labels (distil)."""
    classifier_data: LabelledDataConfig = field(default_factory=LabelledDataConfig)
    """Labelled data to train on (train) or to evaluate on (evaluate)."""
    classifier_training: ClassifierFitConfig = field(default_factory=ClassifierFitConfig)
    """Training of the classifier (train, distil)."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Lightning's Trainer (kind deberta)."""
    folds: int = 5
    """Number of stratified folds; each fold is labelled by a classifier that was trained on the others."""
    folds_evaluated: int | None = None
    """Folds that are evaluated; null evaluates all. The saved classifier is trained on all rows."""
    bootstrap_samples: int = 1000
    """Bootstrap samples of the confidence intervals."""
