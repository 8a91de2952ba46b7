"""Settings of Weights & Biases."""

from dataclasses import dataclass
from enum import Enum


class WandbMode(Enum):
    """Mode of Weights & Biases."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass
class LoggerConfig:
    """Weights & Biases."""

    mode: WandbMode = WandbMode.offline
    """Whether runs are uploaded, kept on disk for `wandb sync`, or not logged."""
    project: str = "tapir"
    """Project of the runs."""
    entity: str | None = None
    """User or team; null uses the default of the account."""
