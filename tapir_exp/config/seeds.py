"""Settings of the seed instructions."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING

from tapir_exp.config.lab import WorldName


class SeedSource(Enum):
    """Source of the seed instructions."""

    lab = "lab"
    file = "file"
    hub = "hub"


@dataclass
class DecontaminationConfig:
    """Benchmarks that must leak neither into the seeds nor into the expansions."""

    benchmarks: list[str] = field(default_factory=lambda: ["alpaca_eval", "mt_bench"])
    """`alpaca_eval` (805 instructions) and `mt_bench` (80 questions of two turns) come from the hub. Anything else is a
    file of questions: .json, .jsonl, .csv, .parquet or .arrow. An empty list disables the check, with a warning."""
    ngram_size: int = 8
    """Consecutive words that a text must share with a question. Ours, as is `overlap_threshold`."""
    overlap_threshold: float = 0.5
    """Share of a question's words in shared n-grams, 0 to 1, from which a text counts as a leak."""


class MissingResponses(Enum):
    """What becomes of rows without a response."""

    drop = "drop"
    """They are dropped as unusable."""
    ask_teacher = "ask_teacher"
    """The teacher responds to them before the first fit; its response takes the place of the dataset's."""


@dataclass
class ColumnsConfig:
    """Names of columns in the source; null finds a column by its usual names."""

    instruction: str | None = None
    """Column of the instruction; by name: instruction, question, prompt, query, problem or user."""
    input: str | None = None
    """Column of a text that follows the instruction; by name: input or context."""
    response: str | None = None
    """Column of the response; by name: output, response, answer, completion, target, solution, reply or assistant."""


@dataclass
class SeedsConfig:
    """The seed instructions D."""

    source: SeedSource = MISSING
    """Source of the seeds."""
    world: WorldName = WorldName.default
    """Problems of the lab (source lab)."""
    path: str | None = None
    """A .json, .jsonl, .csv, .parquet or .arrow file (source file), or the name of a hub dataset (source hub). Rows are
    Alpaca's fields (instruction, input, output), or chats (messages or conversations)."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Names of the columns, such as {instruction: question, response: answer}."""
    missing_responses: MissingResponses = MissingResponses.drop
    """What becomes of rows without a response: drop or ask_teacher."""
    split: str = "train"
    """Split of a hub dataset."""
    max_failure_rate: float = 0.05
    """Share of unusable rows above which the seeds are rejected, 0 to 1."""
    dedup_threshold: float | None = 0.7
    """Jaccard similarity from which a row is a near duplicate of an earlier one and is dropped, 0 to 1. It is computed
    over shingles of three tokens. Null keeps near duplicates. Ours."""
    size: int | None = None
    """Number of clean rows to draw; null uses all."""
    reserve: int = 0
    """Clean rows that the draw leaves for held-out evaluation, at most a tenth of them; 0 leaves none on purpose. Ours.
    """
    seed: int = 0
    """Seed of that draw."""
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    """Decontamination of seeds and expansions."""
