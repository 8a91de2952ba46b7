"""Labelled instructions: read from a file, counted, and cut into parts."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from tapir_exp.config import LabelledDataConfig
from tapir_exp.core.errors import SeedError
from tapir_exp.core.json_rows import read_json_objects
from tapir_exp.core.task_types import TaskType

EXAMPLES = Path(__file__).parent / "examples.json"
"""Eight instructions a type, written for this package; NOTES.md says what had been seen of real ones by then."""


@dataclass(frozen=True)
class LabelledText:
    """An instruction, its input included, and its task type."""

    text: str
    task: TaskType


@dataclass(frozen=True)
class LabelledDataset:
    """Labelled instructions, each text once.

    dropped: rows that could not be taken, by the reason. digest: SHA-256 of the file.
    """

    rows: tuple[LabelledText, ...]
    dropped: Mapping[str, int]
    name: str
    digest: str

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each type, the commonest first."""
        return {str(task): count for task, count in Counter(row.task for row in self.rows).most_common()}


def read_labelled(config: LabelledDataConfig) -> LabelledDataset:
    """The configured labelled instructions. Raises SeedError where the file holds none."""
    if config.path is None:
        return package_examples()
    path = Path(config.path)
    dropped: Counter[str] = Counter()
    rows: dict[str, LabelledText] = {}
    for row in read_json_objects(path, SeedError):
        taken = _take(row, config)
        if isinstance(taken, str):
            dropped[taken] += 1
        elif taken.text in rows:
            dropped["repeated"] += 1
        else:
            rows[taken.text] = taken
    if not rows:
        raise SeedError(f"{path} holds no labelled instruction: {dict(dropped)}; see the fields of `labelled`.")
    return LabelledDataset(tuple(rows.values()), dict(dropped), path.name, sha256(path.read_bytes()).hexdigest())


def package_examples() -> LabelledDataset:
    """The examples that come with the package."""
    data = EXAMPLES.read_bytes()
    rows = tuple(LabelledText(text, TaskType(task)) for task, texts in json.loads(data).items() for text in texts)
    return LabelledDataset(rows, {}, "the package's examples", sha256(data).hexdigest())


def instruction_of(row: Mapping[str, Any], instruction: str = "instruction", given: str = "input") -> str:
    """The instruction of a row, followed by its input where it has one; empty where it has none."""
    parts = [str(row.get(name) or "").strip() for name in (instruction, given)]
    return "\n\n".join(part for part in parts if part) if parts[0] else ""


def stratified_folds(rows: Sequence[LabelledText], count: int, seed: int) -> list[list[int]]:
    """Places of the rows in `count` parts: each type is shuffled and dealt out, going on where the last one stopped."""
    dealt: list[int] = []
    for task in TaskType:
        places = [place for place, row in enumerate(rows) if row.task is task]
        Random(f"folds {seed} {task}").shuffle(places)
        dealt += places
    return [sorted(dealt[part::count]) for part in range(count)]


def _take(row: Mapping[str, Any], config: LabelledDataConfig) -> LabelledText | str:
    """The labelled instruction of a row, or why it has none."""
    text, name = instruction_of(row, config.instruction, config.input), row.get(config.task)
    if not text or name is None:
        return "without an instruction" if not text else "without a type"
    task = config.names.get(str(name), str(name))
    if task is None:
        return f"{name}: left out by classifier_data.names"
    return (
        LabelledText(text, TaskType(task))
        if task in set(TaskType)
        else f"{name}: no task type, see classifier_data.names"
    )
