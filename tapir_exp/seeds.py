"""The seed instructions: from the lab, from a file, or from a hub dataset."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

from tapir_exp.config import SeedsConfig, SeedSource
from tapir_exp.errors import SeedError
from tapir_exp.lab.oracle import lab_digest
from tapir_exp.lab.world import natural_problems
from tapir_exp.records import Example, example_id

MOST_BAD_ROWS = 0.05
"""Share of unusable rows above which the seeds are refused."""


@dataclass(frozen=True)
class Seeds:
    """Seed examples with distinct instructions, and what was left out on the way."""

    examples: list[Example]
    repeated: int
    unusable: int


def load_seeds(config: SeedsConfig) -> Seeds:
    """The configured seeds. Raises SeedError where they cannot be read or too many rows are unusable."""
    if config.source is SeedSource.lab:
        return _distinct(_lab_rows(config))
    rows = list(_alpaca_rows(config))
    if config.size is not None and config.size < len(rows):
        rows = Random(f"seeds {config.seed}").sample(rows, config.size)
    return _distinct(rows)


def source_digest(config: SeedsConfig) -> str:
    """What tells two sources of one configuration apart: the lab's code, or the bytes of the file.

    A hub dataset is told by its name alone. Raises SeedError where the file is not there.
    """
    if config.source is SeedSource.lab:
        return lab_digest()
    return "hub" if config.source is SeedSource.hub else sha256(_seed_file(config).read_bytes()).hexdigest()


def _seed_file(config: SeedsConfig) -> Path:
    path = Path(str(config.path))
    if not path.is_file():
        raise SeedError(f"There is no seed file {config.path}; set seeds.path to an Alpaca-format JSON or JSONL file.")
    return path


def _lab_rows(config: SeedsConfig) -> list[tuple[str, str]]:
    if config.size is None:
        raise SeedError("The lab's seeds have no end: set seeds.size.")
    return [(problem.instruction, problem.terse) for _, problem in natural_problems(config.size, config.seed)]


def _alpaca_rows(config: SeedsConfig) -> Iterable[tuple[str, str]]:
    return (_alpaca_pair(row, number) for number, row in enumerate(_read(config), 1))


def _read(config: SeedsConfig) -> Iterable[Mapping[str, Any]]:
    from datasets import load_dataset  # 1.4 s to import, and the lab does not need it

    if config.source is SeedSource.hub:
        asked: dict[str, Any] = {"path": config.path, "split": config.split}
    else:
        asked = {"path": "json", "data_files": str(_seed_file(config))}
    try:
        rows: Iterable[Mapping[str, Any]] = load_dataset(**{"split": "train", **asked})
    except Exception as error:  # of a dozen kinds; an empty file even raises StopIteration
        raise SeedError(f"The seeds {config.path} cannot be read: {error.__cause__ or repr(error)}") from error
    return rows


def _alpaca_pair(row: Mapping[str, Any], number: int) -> tuple[str, str]:
    """Instruction and response of an Alpaca row; its input, where it has one, follows the instruction."""
    missing = {"instruction", "output"} - row.keys()
    if missing:
        raise SeedError(f"Row {number} of the seeds lacks {sorted(missing)}: Alpaca rows have instruction and output.")
    instruction, given, response = (_text_of(row.get(name)) for name in ("instruction", "input", "output"))
    return f"{instruction}\n\n{given}" if instruction and given else instruction, response


def _text_of(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _distinct(rows: Iterable[tuple[str, str]]) -> Seeds:
    examples: dict[str, Example] = {}
    repeated = unusable = total = 0
    for instruction, response in rows:
        total += 1
        row = example_id(instruction)
        if not instruction or not response:
            unusable += 1
        elif row in examples:
            repeated += 1
        else:
            examples[row] = Example(id=row, instruction=instruction, response=response)
    if unusable > MOST_BAD_ROWS * total or not examples:
        raise SeedError(f"{unusable} of {total} seed rows have no instruction or no response: that is no seed set.")
    return Seeds(list(examples.values()), repeated, unusable)
