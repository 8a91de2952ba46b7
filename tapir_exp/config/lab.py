"""Settings of the synthetic lab."""

from dataclasses import dataclass, field


@dataclass
class LabStudentConfig:
    """The small base student of the lab, a Llama built from a seed."""

    seed: int = 0
    """Seed of the initial weights, and of the text on which the tokenizer is trained."""
    vocab_size: int = 1024
    """Tokens of its byte-level BPE."""
    hidden_size: int = 128
    """Width of the residual stream; a multiple of `heads`."""
    intermediate_size: int = 384
    """Width of the feed-forward layers."""
    num_layers: int = 2
    """Transformer blocks."""
    num_heads: int = 4
    """Attention heads."""


@dataclass
class LabConfig:
    """The embedded world: what its oracles get wrong, and its base student."""

    seed: int = 0
    """Seed of the natural seed instructions and of the held-out benchmark."""
    teacher_error_rate: float = 0.05
    """Share of the teacher's responses that are wrong, 0 to 1."""
    expansion_error_rate: float = 0.05
    """Share of the teacher's new instructions that are of another type than ordered, 0 to 1."""
    judge_noise: float = 0.5
    """Standard deviation of the judge's scores, in points."""
    judge_position_bias: float = 0.7
    """Points that the judge adds to the response it sees first."""
    classifier_error_rate: float = 0.03
    """Share of the classifier's replies that name another type, 0 to 1."""
    student: LabStudentConfig = field(default_factory=LabStudentConfig)
