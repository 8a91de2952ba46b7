"""Settings of the trackers: Weights & Biases, TensorBoard, MLflow and CSV files."""

from dataclasses import dataclass, field
from enum import Enum


class WandbMode(Enum):
    """Mode of Weights & Biases."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


class TrackerKind(Enum):
    """A tracker."""

    wandb = "wandb"
    tensorboard = "tensorboard"
    mlflow = "mlflow"
    csv = "csv"


@dataclass
class LoggerConfig:
    """Trackers of a job. No setting of this section changes a result."""

    report_to: list[TrackerKind] = field(default_factory=lambda: [TrackerKind.wandb])
    """Trackers, any number of them; `tensorboard` and `mlflow` need the extra of their name."""
    mode: WandbMode = WandbMode.offline
    """Whether W&B uploads runs, keeps them on disk for `wandb sync`, or gets nothing."""
    project: str = "tapir"
    """Project of W&B, and experiment of MLflow."""
    entity: str | None = None
    """User or team of W&B; null uses the default of the account."""
    tags: list[str] = field(default_factory=list)
    """Tags besides name, arm and seed of the run."""
    tracking_uri: str | None = None
    """Server or directory of MLflow; null uses `MLFLOW_TRACKING_URI`, or else `mlflow/` in the outputs directory."""
    curriculum_rows: int = 500
    """Most rows of a round's curriculum that are logged, from each task type and subset in proportion; 0 logs none."""
