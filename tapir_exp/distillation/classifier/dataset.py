"""Labelled instructions: read from a file, counted, and split into folds."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from tapir_exp.config import LabelledDataConfig
from tapir_exp.core.errors import SeedError, SourceError
from tapir_exp.core.json_rows import read_json_rows
from tapir_exp.core.store import sha256_file
from tapir_exp.core.task_types import TaskType

EXAMPLES = Path(__file__).parent / "examples.json"
"""Eight instructions per type, written for this package; NOTES.md states which real ones had been seen by then."""


@dataclass(frozen=True)
class LabelledText:
    """An instruction, followed by its input, with its task type and the source that it comes from."""

    text: str
    task: TaskType
    source: str = ""


@dataclass(frozen=True)
class LabelledDataset:
    """Labelled instructions without repeats.

    Attributes:
        rows: The instructions with their types.
        dropped: Number of dropped rows by reason.
        name: Name of the file.
        digest: SHA-256 of the file.
    """

    rows: tuple[LabelledText, ...]
    dropped: Mapping[str, int]
    name: str
    digest: str

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each type, in descending order."""
        return {str(task): count for task, count in Counter(row.task for row in self.rows).most_common()}


def read_labelled(config: LabelledDataConfig) -> LabelledDataset:
    """Read the configured labelled instructions; without a path, the examples of the package.

    Raises:
        SeedError: If the file cannot be read, or no row has an instruction and a task type.
    """
    if config.path is None:
        return package_examples()
    path = Path(config.path)
    dropped: Counter[str] = Counter()
    rows: dict[str, LabelledText] = {}
    try:
        for raw in read_json_rows(path):
            row = f"unreadable: {raw.failure}" if raw.fields is None else _parse_row(raw.fields, config)
            if isinstance(row, str):
                dropped[row] += 1
            elif row.text in rows:
                dropped["repeated"] += 1
            else:
                rows[row.text] = row
    except SourceError as failure:
        raise SeedError(str(failure)) from failure
    if not rows:
        raise SeedError(
            f"{path} has no labelled instruction: {dict(dropped)}. "
            "Set classifier_data.instruction, .input, .task and .names to the columns and types of the file."
        )
    return LabelledDataset(tuple(rows.values()), dict(dropped), path.name, sha256_file(path))


def package_examples() -> LabelledDataset:
    """Return the examples that come with the package."""
    data = EXAMPLES.read_bytes()
    rows = tuple(LabelledText(text, TaskType(task)) for task, texts in json.loads(data).items() for text in texts)
    return LabelledDataset(rows, {}, "the package's examples", sha256(data).hexdigest())


def instruction_text(row: Mapping[str, Any], instruction: str = "instruction", input_column: str = "input") -> str:
    """Return the instruction of a row, followed by its input if there is one; empty without an instruction.

    Args:
        row: The row's columns.
        instruction: Name of the column of the instruction.
        input_column: Name of the column of the input.
    """
    # A list of parts, or a value that the file's reader could not read, is no instruction.
    values = [row.get(name) for name in (instruction, input_column)]
    parts = [str(value or "").strip() if isinstance(value, str | int | float) else "" for value in values]
    return "\n\n".join(part for part in parts if part) if parts[0] else ""


def stratified_folds(rows: Sequence[LabelledText], count: int, seed: int) -> list[list[int]]:
    """Return the indices of the rows in `count` folds, each type spread evenly."""
    order: list[int] = []
    for task in TaskType:
        indices = [index for index, row in enumerate(rows) if row.task is task]
        Random(f"folds {seed} {task}").shuffle(indices)
        order += indices
    # Rows are dealt out in turn over all types, so small types do not all end up in the first fold.
    return [sorted(order[fold::count]) for fold in range(count)]


def calibration_folds(rows: Sequence[LabelledText], count: int, seed: int) -> list[list[int]]:
    """Return folds for a calibration: one for each source if there are several, otherwise stratified folds.

    A classifier is more confident on its own sources than on others. So its confidence is better measured on rows of a
    source that was left out.
    """
    sources = list(dict.fromkeys(row.source for row in rows))
    if len(sources) < 2:
        return stratified_folds(rows, count, seed)
    return [[index for index, row in enumerate(rows) if row.source == source] for source in sources]


def _parse_row(row: Mapping[str, Any], config: LabelledDataConfig) -> LabelledText | str:
    """Return the labelled instruction of a row, or the reason why it has none."""
    text, name = instruction_text(row, config.instruction, config.input), row.get(config.task)
    if not text:
        return "without an instruction"
    if name is None:
        return "without a type"
    task = config.names.get(str(name), str(name))
    if task is None:
        return f"{name}: excluded by classifier_data.names"
    if task not in set(TaskType):
        return f"{name}: no task type, see classifier_data.names"
    source = "" if config.source is None else str(row.get(config.source) or "")
    return LabelledText(text, TaskType(task), source)
