"""Settings of the synthetic lab."""

from dataclasses import dataclass, field
from enum import Enum


class WorldName(Enum):
    """Problems of the lab.

    `default` has fourteen families of varied tasks. `ladder` has twelve families with rare hard levels, which teach
    what no easier level does; in it the hard set can matter.
    """

    default = "default"
    ladder = "ladder"


@dataclass
class LabStudentConfig:
    """Base student of the lab: a small Llama that is initialised from a seed."""

    seed: int = 0
    """Seed of the initial weights, and of the corpus of the tokenizer."""
    vocab_size: int = 1024
    """Size of the byte-level BPE vocabulary."""
    hidden_size: int = 128
    """Width of the residual stream; a multiple of `num_heads`."""
    intermediate_size: int = 384
    """Width of the feed-forward layers."""
    num_layers: int = 2
    """Number of transformer blocks."""
    num_heads: int = 4
    """Number of attention heads."""


@dataclass
class LabConfig:
    """Error rates of the lab's models, and its base student. All values are ours."""

    world: WorldName = WorldName.default
    """Problems of the seed instructions and of the held-out benchmark."""
    seed: int = 0
    """Seed of the seed instructions and of the held-out benchmark."""
    teacher_error_rate: float = 0.05
    """Share of the teacher's responses that are wrong, 0 to 1."""
    expansion_error_rate: float = 0.05
    """Share of the teacher's new instructions with another task type than requested, 0 to 1."""
    judge_noise: float = 0.5
    """Standard deviation of the judge's scores, in points."""
    judge_position_bias: float = 0.7
    """Points that the judge adds to the response shown first."""
    classifier_error_rate: float = 0.03
    """Share of wrong task types in the classifier's completions, 0 to 1."""
    student: LabStudentConfig = field(default_factory=LabStudentConfig)
    """Base student of the lab."""
