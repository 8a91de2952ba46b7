"""Settings of the target distribution of task types."""

from dataclasses import dataclass, field

from omegaconf import MISSING


@dataclass
class TaskMixConfig:
    """The target distribution of task types."""

    name: str = MISSING
    """Name of the preset."""
    target_distribution: dict[str, float] | None = None
    """Share of each task type; the sum is 1. Null keeps the natural distribution of the seeds."""
    weights: dict[str, float] = field(default_factory=dict)
    """Factors of the shares of some task types, such as Math: 2 or Code_Generation: 0.5. The result is scaled to a sum
    of 1, which a search over shares could not keep. The others have the factor 1. Ours."""
