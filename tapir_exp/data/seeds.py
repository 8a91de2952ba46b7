"""From a source to clean seeds: usable rows, each instruction once, nothing of a benchmark, and as many as wanted."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TextIO

from tapir_exp.config import SeedsConfig, SeedSource
from tapir_exp.core.errors import SeedError
from tapir_exp.core.records import DroppedRow, DropReason, Example, example_id
from tapir_exp.core.store import DROPPED, ROWS, read_rows, write_rows
from tapir_exp.data.decontamination import Benchmarks, load_benchmarks
from tapir_exp.data.formats import SeedPair, UnusableRow, parse_pair
from tapir_exp.data.near_duplicates import NearDuplicateIndex
from tapir_exp.data.readers import RawRow, read_file, read_hub, sha256_source
from tapir_exp.data.spool import MappedPairs, write_mapped_pairs
from tapir_exp.lab.oracle import LAB_VERSION
from tapir_exp.lab.world import natural_problems

REASONS = 20
"""Most reasons that an error lists."""


@dataclass(frozen=True)
class SeedReport:
    """What came of a source.

    read: its rows; rows: those that became seeds; undrawn: clean ones beyond the size that is wanted.
    dropped: the others, by reason.
    checked: whether there was a benchmark to check them against.
    """

    read: int
    rows: int
    undrawn: int
    dropped: Counter[DropReason]
    checked: bool

    @property
    def figures(self) -> dict[str, int | None]:
        """The counts by name; contaminated is None where nothing was checked."""
        return {
            "rows": self.rows,
            "read": self.read,
            "unusable": self.dropped[DropReason.UNUSABLE],
            "repeated": self.dropped[DropReason.REPEATED],
            "near_duplicates": self.dropped[DropReason.NEAR_DUPLICATE],
            "contaminated": self.dropped[DropReason.CONTAMINATED] if self.checked else None,
            "undrawn": self.undrawn,
        }


class DropLog:
    """Where rows that are left out are written down, as they come."""

    def __init__(self, source: str, lines: TextIO) -> None:
        self.read = 0
        self.counts: Counter[DropReason] = Counter()
        self.failures: Counter[str] = Counter()
        self.source = source
        self._lines = lines

    def drop(self, row: int, reason: DropReason, detail: str) -> None:
        """Write down that a row is left out, and why."""
        self.counts[reason] += 1
        if reason is DropReason.UNUSABLE:
            self.failures[detail] += 1
        dropped = DroppedRow(source=self.source, row=row, reason=reason, detail=detail)
        self._lines.write(f"{dropped.model_dump_json()}\n")


def gather_seeds(config: SeedsConfig, benchmarks: Benchmarks, directory: Path) -> SeedReport:
    """Write the seeds into `directory`, and beside them which rows were left out and why.

    Texts pass through the disk; in memory are some 150 bytes a row, and 1.4 kB more where near duplicates are looked
    for. Raises SourceError where the source cannot be read, SeedError where too many of its rows are unusable.
    """
    passing = directory / "pairs.arrow"
    with (directory / DROPPED).open("w", encoding="utf-8") as lines:
        register = DropLog(_source_name(config), lines)
        pairs = _uncontaminated(_distinct(_usable_pairs(config, register), register), benchmarks, register)
        spool = write_mapped_pairs(passing, pairs)
        _refuse_a_bad_source(register, config.max_failure_rate)
        clean = list(_unlike(spool, config.dedup_threshold, register))
        rows = write_rows(directory / ROWS, (_example(spool[place]) for place in _draw(clean, config)))
    if not rows:
        raise SeedError(f"No row of {register.source} is left: {directory / DROPPED} says why.")
    passing.unlink()
    return SeedReport(register.read, rows, len(clean) - rows, register.counts, checked=bool(benchmarks))


def load_seeds(config: SeedsConfig) -> list[Example]:
    """The seeds, for whoever wants to keep no files. Raises what `gather_seeds` raises."""
    with TemporaryDirectory() as directory:
        gather_seeds(config, load_benchmarks(config.decontamination), Path(directory))
        return read_rows(Path(directory) / ROWS, Example)


def source_digest(config: SeedsConfig) -> str:
    """What tells two sources of one configuration apart: the lab's code, or the bytes of the file.

    A hub dataset is told by its name alone. Raises SourceError where the file is not there.
    """
    if config.source is SeedSource.lab:
        return LAB_VERSION
    return "hub" if config.source is SeedSource.hub else sha256_source(Path(str(config.path)))


def _source_name(config: SeedsConfig) -> str:
    return "lab" if config.source is SeedSource.lab else str(config.path)


def _usable_pairs(config: SeedsConfig, register: DropLog) -> Iterator[SeedPair]:
    if config.source is SeedSource.lab:
        yield from _lab_pairs(config, register)
        return
    for raw in _raw_rows(config):
        register.read += 1
        try:
            yield _pair(raw)
        except UnusableRow as reason:
            register.drop(raw.number, DropReason.UNUSABLE, str(reason))


def _raw_rows(config: SeedsConfig) -> Iterator[RawRow]:
    if config.source is SeedSource.hub:
        return read_hub(str(config.path), config.split)
    return read_file(Path(str(config.path)))


def _pair(raw: RawRow) -> SeedPair:
    if raw.fields is None:
        raise UnusableRow(raw.failure)
    return parse_pair(raw.fields, raw.number)


def _lab_pairs(config: SeedsConfig, register: DropLog) -> Iterator[SeedPair]:
    if config.size is None:
        raise SeedError("The lab's seeds have no end: set seeds.size.")
    for number, (_, problem) in enumerate(natural_problems(config.size, config.seed), 1):
        register.read += 1
        yield SeedPair(number, problem.instruction, problem.terse)


def _distinct(pairs: Iterator[SeedPair], register: DropLog) -> Iterator[SeedPair]:
    first: dict[int, int] = {}
    for pair in pairs:
        row = first.setdefault(int(example_id(pair.instruction), 16), pair.row)
        if row == pair.row:
            yield pair
        else:
            register.drop(pair.row, DropReason.REPEATED, f"the instruction of row {row}")


def _uncontaminated(pairs: Iterator[SeedPair], benchmarks: Benchmarks, register: DropLog) -> Iterator[SeedPair]:
    for pair in pairs:
        leak = benchmarks.find_leak(pair.instruction, pair.response)
        if leak is None:
            yield pair
        else:
            register.drop(pair.row, DropReason.CONTAMINATED, str(leak))


def _unlike(spool: MappedPairs, threshold: float | None, register: DropLog) -> Iterator[int]:
    """Places of the pairs that nearly repeat none before them."""
    if threshold is None:
        yield from range(len(spool))
        return
    duplicates = NearDuplicateIndex(threshold, spool.instruction)
    for place in range(len(spool)):
        twin = duplicates.twin_of(place, spool.instruction(place))
        if twin is None:
            yield place
        else:
            detail = f"similarity {twin.similarity:.2f} with row {spool[twin.key].row}"
            register.drop(spool[place].row, DropReason.NEAR_DUPLICATE, detail)


def _draw(clean: Sequence[int], config: SeedsConfig) -> Sequence[int]:
    """So many of the places as wanted, in their order; the lab writes no more than these."""
    if config.size is None or config.size >= len(clean):
        return clean
    return sorted(Random(f"seeds {config.seed}").sample(clean, config.size))


def _example(pair: SeedPair) -> Example:
    return Example(id=example_id(pair.instruction), instruction=pair.instruction, response=pair.response)


def _refuse_a_bad_source(register: DropLog, max_failure_rate: float) -> None:
    unusable = register.failures.total()
    if register.read and unusable <= max_failure_rate * register.read and unusable < register.read:
        return
    reasons = "\n".join(f"  {count:6d}  {reason}" for reason, count in register.failures.most_common(REASONS))
    raise SeedError(
        f"{unusable} of {register.read} rows of {register.source} cannot be used; the share that may be so is "
        f"{max_failure_rate:.1%}:\n{reasons}\nMend the source, or raise seeds.max_failure_rate."
    )
