"""Rows on the disk instead of in memory: those of a finished file, and those of an artifact that is still being made.

A row takes 8 bytes of memory, its position in the file, and is parsed each time it is read. So a stage holds as many
rows as it works on, whatever the size of the dataset.
"""

import os
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Generic, Self, TypeVar, overload

from pydantic import ConfigDict, ValidationError

from tapir_exp.core.errors import StoreError
from tapir_exp.core.records import Record

UNFINISHED = "unfinished_rows"
"""File of the rows that an unfinished artifact has so far; removed when the artifact is finished."""
SYNC_S = 10.0
"""Seconds of rows that a power failure may cost; a killed process loses none."""

Item = TypeVar("Item")
Row = TypeVar("Row", bound=Record)
_NOWHERE = -1


class StoredVector(Record):
    """The scores or the embedding of a text, as they are kept until all texts are labelled.

    Attributes:
        values: Little-endian float32 numbers in Base64, which keeps every bit.
    """

    values: str


KeptVectors = MutableMapping[int, StoredVector]
"""Results of an encoder by the index of their text."""


class MeasuredLoss(Record):
    """Mean loss of one response, in nats per token, as it is kept until the stage of the losses is finished."""

    # A broken model has a loss of NaN, which JSON would turn into null.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    loss: float


class LazySequence(Sequence[Item]):
    """A sequence that makes its items on access, such as requests that are built when they are sent."""

    def __init__(self, size: int, make: Callable[[int], Item]) -> None:
        """Create a sequence.

        Args:
            size: Number of items.
            make: Returns the item at an index from 0.
        """
        self._size, self._make = size, make

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return [self._make(number) for number in range(*index.indices(self._size))]
        return self._make(range(self._size)[index])


class StoredRows(Sequence[Row]):
    """The rows of a finished file of JSON lines, read on access. The file must not change."""

    def __init__(self, path: Path, row_type: type[Row]) -> None:
        self._path, self._type = path, row_type
        self._file = path.open("rb")
        self._starts = array("q", [0])
        for line in self._file:
            self._starts.append(self._starts[-1] + len(line))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        start, end = self._starts[number], self._starts[number + 1]
        # pread has no position in the file, so threads may read at once.
        return self._parse(number, os.pread(self._file.fileno(), end - start, start))

    def __iter__(self) -> Iterator[Row]:
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines):
                yield self._parse(number, line)

    def _parse(self, number: int, line: bytes) -> Row:
        try:
            return self._type.model_validate_json(line)
        except ValidationError as error:
            problem = f"not a valid {self._type.__name__}: {error}"
            raise StoreError(f"{self._path}, line {number + 1}: {problem}") from error


class RowLog(MutableMapping[int, Row]):
    """Rows of an artifact that is being made, by their index in it; each is in the file as soon as it is set.

    A row is a line of its index, a tab and its JSON. When the log is opened again, it holds the rows of the process
    that was killed; a line that is cut or damaged ends them. The store removes the file when the artifact is finished.

    Example:
        with RowLog(directory / UNFINISHED, Response) as log:
            for index in range(len(prompts)):
                if index not in log:
                    log[index] = respond(prompts[index])
            write_rows(directory / ROWS, in_order(log, len(prompts)))
    """

    def __init__(self, path: Path, row_type: type[Row]) -> None:
        """Open the log, or create it.

        Args:
            path: The file.
            row_type: Type of the rows.
        """
        path.touch()
        self._start(path.open("r+b"), row_type, durable=True)
        self._load()

    @classmethod
    def temporary(cls, directory: Path, row_type: type[Row]) -> "RowLog[Row]":
        """Return a log in a file without a name, which is gone with the process, on the disk of `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        log: RowLog[Row] = cls.__new__(cls)
        log._start(TemporaryFile(dir=directory), row_type, durable=False)  # noqa: SIM115 (the log closes it)
        return log

    def _start(self, file: IO[bytes], row_type: type[Row], *, durable: bool) -> None:
        self._file, self._type, self._durable = file, row_type, durable
        # Start and length of each row's JSON by index.
        self._starts, self._lengths = array("q"), array("q")
        self._count, self._end = 0, 0
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return (index for index, start in enumerate(self._starts) if start != _NOWHERE)

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and index < len(self._starts) and self._starts[index] != _NOWHERE

    def __getitem__(self, index: int) -> Row:
        if index not in self:
            raise KeyError(index)
        return self._type.model_validate_json(os.pread(self._file.fileno(), self._lengths[index], self._starts[index]))

    def __setitem__(self, index: int, row: Row) -> None:
        head, text = f"{index}\t".encode(), row.model_dump_json().encode()
        self._file.write(head + text + b"\n")
        self._file.flush()
        self._remember(index, self._end + len(head), len(text))
        self._end += len(head) + len(text) + 1
        if self._durable and time.monotonic() - self._synced > SYNC_S:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def __delitem__(self, index: int) -> None:
        """Remove a row; its line stays in the file, so a log that is opened again has it."""
        if index not in self:
            raise KeyError(index)
        self._starts[index] = _NOWHERE
        self._count -= 1

    def _remember(self, index: int, start: int, length: int) -> None:
        missing = index + 1 - len(self._starts)
        if missing > 0:
            self._starts.extend([_NOWHERE] * missing)
            self._lengths.extend([0] * missing)
        self._count += self._starts[index] == _NOWHERE
        self._starts[index], self._lengths[index] = start, length

    def _load(self) -> None:
        """Find the rows of an earlier process, and cut off what is not whole."""
        for line in self._file:
            head, tab, text = line.partition(b"\t")
            if not (tab and text.endswith(b"\n") and head.isdigit() and self._is_valid(text)):
                break
            self._remember(int(head), self._end + len(head) + 1, len(text) - 1)
            self._end += len(line)
        self._file.truncate(self._end)
        self._file.seek(self._end)

    def _is_valid(self, text: bytes) -> bool:
        try:
            self._type.model_validate_json(text)
        except ValidationError:
            return False
        return True


class ShiftedRows(MutableMapping[int, Item], Generic[Item]):
    """A part of a log: its index 0 is the index `start` of the whole."""

    def __init__(self, rows: MutableMapping[int, Item], start: int) -> None:
        self._rows, self._start = rows, start

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[int]:
        return (index - self._start for index in self._rows if index >= self._start)

    def __contains__(self, index: object) -> bool:
        return isinstance(index, int) and index >= 0 and index + self._start in self._rows

    def __getitem__(self, index: int) -> Item:
        return self._rows[index + self._start]

    def __setitem__(self, index: int, row: Item) -> None:
        self._rows[index + self._start] = row

    def __delitem__(self, index: int) -> None:
        del self._rows[index + self._start]


def in_order(rows: Mapping[int, Item], size: int) -> Sequence[Item]:
    """Return the rows 0 to `size - 1`: a list if they are in memory, otherwise a sequence that reads each on access."""
    if isinstance(rows, dict):
        return [rows[index] for index in range(size)]
    return LazySequence(size, rows.__getitem__)
