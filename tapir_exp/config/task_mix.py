"""Settings of the target distribution of task types."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class TaskMixConfig:
    """The target distribution of task types."""

    name: str = MISSING
    """Name of the preset."""
    target_distribution: dict[str, float] | None = None
    """Share of each task type; the sum is 1. Null keeps the natural distribution of the seeds."""
