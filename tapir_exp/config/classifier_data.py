"""Settings of the labelled data of the task classifier."""

from dataclasses import dataclass, field


@dataclass
class LabelledDataConfig:
    """Instructions with known task types, and the fields of their file."""

    path: str | None = None
    """JSON or JSON lines, one object per row; null uses the examples of the package."""
    instruction: str = "instruction"
    """Field of the instruction."""
    input: str = "input"
    """Field of the input, which is appended to the instruction as in Alpaca; it may be absent."""
    task: str = "task"
    """Field of the task type."""
    source: str | None = None
    """Field that names the source of a row. With several sources, each one is left out in turn to set the temperature.
    So the confidence holds for sources that the classifier was not trained on. Null: one source."""
    names: dict[str, str | None] = field(default_factory=dict)
    """Task type of each name that the file uses; null drops the rows of that name and counts them."""
