"""Turn a source into clean seed instructions: usable, distinct, uncontaminated, and as many as configured."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from tapir_exp.config import ColumnsConfig, MissingResponses, SeedsConfig, SeedSource
from tapir_exp.core.errors import SeedError
from tapir_exp.core.json_rows import RawRow
from tapir_exp.core.records import DroppedRow, DropReason, Example, example_id
from tapir_exp.core.store import DROPPED, ROWS, read_rows, write_rows
from tapir_exp.data.decontamination import Benchmarks, load_benchmarks
from tapir_exp.data.formats import SeedPair, UnusableRow, parse_pair
from tapir_exp.data.mapped_pairs import MappedPairs, write_mapped_pairs
from tapir_exp.data.near_duplicates import NearDuplicateIndex
from tapir_exp.data.readers import read_file, read_hub, sha256_source
from tapir_exp.lab.oracle import world_version
from tapir_exp.lab.world import natural_problems

RESERVED_SHARE = 0.1
"""Largest share of the clean rows that `seeds.reserve` leaves."""
LATER_SETTINGS = {"columns": asdict(ColumnsConfig()), "missing_responses": MissingResponses.drop, "reserve": 0}
"""Settings that were added later, with values that change nothing; they are then no part of a recipe."""
REASONS = 20
"""Largest number of reasons that an error lists."""


@dataclass(frozen=True)
class SeedReport:
    """Counts of the rows of a source.

    Attributes:
        read: rows that were read.
        rows: rows that became seeds.
        undrawn: clean rows beyond the configured size.
        dropped: the other rows, by reason.
        checked: whether there was a benchmark to check the rows against.
    """

    read: int
    rows: int
    undrawn: int
    dropped: Counter[DropReason]
    checked: bool

    @property
    def figures(self) -> dict[str, int | None]:
        """Return the counts by name; `contaminated` is None if nothing was checked."""
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
    """Count dropped rows and write each to a file with its reason.

    Args:
        source: name of the source, for the records.
        lines: open file that the records go to, as JSON lines.

    Attributes:
        read: rows that were read so far.
        counts: dropped rows by reason.
        failures: unusable rows by the kind of failure.
        examples: for each kind of failure, the first row and what was wrong with it.
    """

    def __init__(self, source: str, lines: TextIO) -> None:
        self.read = 0
        self.counts: Counter[DropReason] = Counter()
        self.failures: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.source = source
        self._lines = lines

    def drop(self, row_number: int, reason: DropReason, detail: str) -> None:
        """Record a dropped row.

        Args:
            row_number: position of the row in the source, from 1.
            reason: why it is dropped.
            detail: the reason in words; for an unusable row "kind" or "kind: specifics".
        """
        self.counts[reason] += 1
        if reason is DropReason.UNUSABLE:
            # Specifics such as a byte position differ from row to row, so rows are counted by the kind alone.
            kind, _, specifics = detail.partition(": ")
            self.failures[kind] += 1
            self.examples.setdefault(kind, f" (first: row {row_number}, {specifics})" if specifics else "")
        dropped = DroppedRow(source=self.source, row=row_number, reason=reason, detail=detail)
        self._lines.write(f"{dropped.model_dump_json()}\n")

    def check_failure_rate(self, max_failure_rate: float) -> None:
        """Raise SeedError if more rows are unusable than the rate allows, or all of them, or none were read."""
        unusable = self.failures.total()
        if self.read and unusable <= max_failure_rate * self.read and unusable < self.read:
            return
        reasons = "\n".join(
            f"  {count:6d}  {kind}{self.examples[kind]}" for kind, count in self.failures.most_common(REASONS)
        )
        raise SeedError(
            f"{unusable} of {self.read} rows of {self.source} are unusable; seeds.max_failure_rate allows "
            f"{max_failure_rate:.1%}:\n{reasons}\nCorrect the source, or raise seeds.max_failure_rate.{self._advice()}"
        )

    def _advice(self) -> str:
        """Return what to do about a file of another shape, columns that were not found, and missing responses."""
        advice = ""
        if self.read == 1 or any("not a JSON object" in kind for kind in self.failures):
            advice += ' Expected is a list of objects such as {"instruction": "...", "output": "..."}, or one a line.'
        if any("no column" in kind for kind in self.failures):
            advice += " Name its columns: seeds.columns='{instruction: NAME, response: NAME}'."
        if any("response" in kind or "and a reply" in kind for kind in self.failures):
            advice += " With seeds.missing_responses=ask_teacher, the teacher responds to rows without a response."
        return advice


def gather_seeds(config: SeedsConfig, benchmarks: Benchmarks, directory: Path) -> SeedReport:
    """Write the seed instructions and the dropped rows of a source.

    Texts are buffered on disk. Memory holds some 150 bytes per row, and 1.4 kB more if near duplicates are dropped.

    Args:
        config: the source and the rules for its rows.
        benchmarks: the benchmarks that no seed may leak.
        directory: directory of `rows.jsonl` and `dropped.jsonl`.

    Raises:
        SourceError: the source cannot be read.
        SeedError: too many of its rows are unusable, or none is left.
    """
    tmp = directory / "pairs.arrow"
    with (directory / DROPPED).open("w", encoding="utf-8") as lines:
        log = DropLog("lab" if config.source is SeedSource.lab else str(config.path), lines)
        # A chain of generators: at most one batch of pairs is in memory. Each step drops what it rejects.
        distinct = _drop_repeated(_usable_pairs(config, log), log)
        pairs = write_mapped_pairs(tmp, _drop_contaminated(distinct, benchmarks, log))
        log.check_failure_rate(config.max_failure_rate)
        clean = list(_drop_near_duplicates(pairs, config.dedup_threshold, log))
        rows = write_rows(directory / ROWS, (example_of(pairs[index]) for index in _draw(clean, config)))
    # Rows may all be dropped as repeated, contaminated or near duplicates, which no failure rate covers.
    if not rows:
        raise SeedError(f"No row of {log.source} is left; the reasons are in {directory / DROPPED}.")
    tmp.unlink()
    return SeedReport(log.read, rows, len(clean) - rows, log.counts, checked=bool(benchmarks))


def load_seeds(config: SeedsConfig) -> list[Example]:
    """Return the seed instructions without keeping a file. Raise what `gather_seeds` raises."""
    with TemporaryDirectory() as directory:
        gather_seeds(config, load_benchmarks(config.decontamination), Path(directory))
        return read_rows(Path(directory) / ROWS, Example)


def skim_seeds(config: SeedsConfig) -> list[SeedPair]:
    """Return the pairs of seed instructions before near duplicates and leaks are dropped, in a fraction of the time.

    All of them are in memory, and no file is written. Raises what `gather_seeds` raises.
    """
    log = DropLog("lab" if config.source is SeedSource.lab else str(config.path), StringIO())
    pairs = list(_drop_repeated(_usable_pairs(config, log), log))
    log.check_failure_rate(config.max_failure_rate)
    if not pairs:
        raise SeedError(f"No row of {log.source} is left.")
    return [pairs[index] for index in _draw(range(len(pairs)), config)]


def source_digest(config: SeedsConfig) -> str:
    """Return what identifies a source besides its settings: the lab's version, or the digest of the file.

    A hub dataset is identified by its name alone, which is among the settings.

    Raises:
        SourceError: the file is missing.
    """
    if config.source is SeedSource.lab:
        return world_version(config.world)
    return "hub" if config.source is SeedSource.hub else sha256_source(Path(str(config.path)))


def _usable_pairs(config: SeedsConfig, log: DropLog) -> Iterator[SeedPair]:
    if config.source is SeedSource.lab:
        yield from _lab_pairs(config, log)
        return
    columns, asks = _mapped_columns(config), config.missing_responses is MissingResponses.ask_teacher
    for raw in _raw_rows(config):
        log.read += 1
        try:
            yield _parse_row(raw, columns, asks)
        except UnusableRow as reason:
            log.drop(raw.number, DropReason.UNUSABLE, str(reason))


def _raw_rows(config: SeedsConfig) -> Iterator[RawRow]:
    if config.source is SeedSource.hub:
        return read_hub(str(config.path), config.split)
    return read_file(Path(str(config.path)))


def parse_seed(raw: RawRow, config: SeedsConfig) -> SeedPair:
    """Return the pair of a row. Raises UnusableRow if it holds none."""
    return _parse_row(raw, _mapped_columns(config), config.missing_responses is MissingResponses.ask_teacher)


def _mapped_columns(config: SeedsConfig) -> Mapping[str, str]:
    return {part: name for part, name in asdict(config.columns).items() if name is not None}


def _parse_row(raw: RawRow, columns: Mapping[str, str], asks: bool) -> SeedPair:
    if raw.fields is None:
        raise UnusableRow(raw.failure)
    return parse_pair(raw.fields, raw.number, columns, allow_missing_response=asks)


def _lab_pairs(config: SeedsConfig, log: DropLog) -> Iterator[SeedPair]:
    if config.size is None:
        raise SeedError("The lab generates any number of seed instructions, but seeds.size is null: set seeds.size.")
    for row_number, (_, problem) in enumerate(natural_problems(config.size, config.seed, config.world), 1):
        log.read += 1
        yield SeedPair(row_number, problem.instruction, problem.terse)


def _drop_repeated(pairs: Iterator[SeedPair], log: DropLog) -> Iterator[SeedPair]:
    # Ids as integers take a fraction of the memory of the instructions, or of ids as text.
    first: dict[int, int] = {}
    for pair in pairs:
        row_number = first.setdefault(int(example_id(pair.instruction), 16), pair.row_number)
        if row_number == pair.row_number:
            yield pair
        else:
            log.drop(pair.row_number, DropReason.REPEATED, f"the instruction of row {row_number}")


def _drop_contaminated(pairs: Iterator[SeedPair], benchmarks: Benchmarks, log: DropLog) -> Iterator[SeedPair]:
    for pair in pairs:
        leak = benchmarks.find_leak(pair.instruction, pair.response)
        if leak is None:
            yield pair
        else:
            log.drop(pair.row_number, DropReason.CONTAMINATED, str(leak))


def _drop_near_duplicates(pairs: MappedPairs, threshold: float | None, log: DropLog) -> Iterator[int]:
    """Yield the indices of pairs that nearly repeat no earlier one."""
    if threshold is None:
        yield from range(len(pairs))
        return
    # Texts of earlier pairs are read back from disk, so only the index is in memory.
    index = NearDuplicateIndex(threshold, pairs.instruction)
    for key in range(len(pairs)):
        duplicate = index.find_duplicate(key, pairs.instruction(key))
        if duplicate is None:
            yield key
        else:
            detail = f"similarity {duplicate.similarity:.2f} with row {pairs[duplicate.key].row_number}"
            log.drop(pairs[key].row_number, DropReason.NEAR_DUPLICATE, detail)


def _draw(clean: Sequence[int], config: SeedsConfig) -> Sequence[int]:
    """Draw the configured number of indices, in their order. The lab generates no more than these."""
    size = len(clean) - reserved_rows(len(clean), config.reserve)
    size = size if config.size is None else min(size, config.size)
    if size >= len(clean):
        return clean
    # Sorted: the file has the order of the source for any size.
    return sorted(Random(f"seeds {config.seed}").sample(clean, size))


def reserved_rows(clean: int, reserve: int) -> int:
    """Return how many of the clean rows the draw leaves; with a reserve at least one, but never all."""
    return min(reserve, max(1, round(RESERVED_SHARE * clean)), max(0, clean - 1))


def undrawn_rows(drawn: int, reserve: int) -> int:
    """Return how many rows a draw has left to the reserve, by the number of rows that it drew."""
    return min(reserve, max(1, round(drawn * RESERVED_SHARE / (1 - RESERVED_SHARE))))


def seeds_recipe(config: SeedsConfig) -> dict[str, Any]:
    """Return the settings that determine the seeds, for a recipe."""
    # Settings that were added later must not change the keys of runs that do not use them.
    settings = asdict(config).items()
    return {name: value for name, value in settings if name not in LATER_SETTINGS or value != LATER_SETTINGS[name]}


def example_of(pair: SeedPair) -> Example:
    """Return the row of a pair."""
    return Example(id=example_id(pair.instruction), instruction=pair.instruction, response=pair.response)
