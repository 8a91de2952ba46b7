"""Settings of the seed instructions and of the task mix."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING


class SeedSource(Enum):
    """Where the seed instructions come from."""

    lab = "lab"
    file = "file"
    hub = "hub"


@dataclass
class TaskMixConfig:
    """The target mix of task types."""

    name: str = MISSING
    """Name of the preset."""
    target_distribution: dict[str, float] | None = None
    """Share of each task type; they sum to 1. Null keeps the natural mix of the seeds."""


@dataclass
class DecontaminationConfig:
    """The benchmarks that must not leak, neither through the seeds nor through what the teacher writes."""

    benchmarks: list[str] = field(default_factory=lambda: ["alpaca_eval", "mt_bench"])
    """`alpaca_eval` (805 instructions) and `mt_bench` (80 questions of two turns) come from the hub; anything else is
    a file of questions: .json, .jsonl, .csv or .parquet. An empty list checks nothing, and says so."""
    ngram_size: int = 8
    """Words in a row that a text must share with a question. Ours, as is `overlap`."""
    overlap_threshold: float = 0.5
    """Share of a question's words, 0 to 1, that lie in such runs, from which on a text is a leak."""


@dataclass
class SeedsConfig:
    """The seed instructions."""

    source: SeedSource = MISSING
    path: str | None = None
    """A .json, .jsonl, .csv or .parquet file (source file), or the name of a hub dataset (source hub). Its rows are
    Alpaca's (instruction, input, output) or chats (messages or conversations)."""
    split: str = "train"
    """Split of a hub dataset."""
    max_failure_rate: float = 0.05
    """Share of unusable rows above which the seeds are refused, 0 to 1."""
    dedup_threshold: float | None = 0.7
    """A row is left out where the Jaccard similarity of its instruction with an earlier one's, over shingles of three
    tokens, is at least this; null keeps near duplicates. Ours."""
    size: int | None = None
    """Take so many of the clean rows, drawn by `seed`; null takes all."""
    seed: int = 0
    """Seed of that draw."""
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    """It holds for what the teacher writes after these seeds, too."""
