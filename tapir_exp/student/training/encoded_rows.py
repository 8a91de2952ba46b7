"""Training rows as token ids, in memory or in a memory-mapped Arrow file.

A training set may exceed the memory, so a fit writes its encoded rows to a file and reads single rows on demand.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import pyarrow as pa

from tapir_exp.core.records import Subset

SCHEMA = pa.schema([("tokens", pa.list_(pa.int32())), ("prompt", pa.int32()), ("subset", pa.string())])

WriteRows = Callable[[Sequence["EncodedRow"]], None]
"""Append rows to a store."""


@dataclass(frozen=True)
class EncodedRow:
    """A training row as token ids: prompt, response, end of turn.

    Attributes:
        tokens: Ids of all tokens.
        prompt: Number of prompt tokens, which the model reads and the loss ignores.
        subset: Part of the mix that the row belongs to.
    """

    tokens: tuple[int, ...]
    prompt: int
    subset: Subset

    @property
    def supervised(self) -> int:
        """Return the number of tokens that the loss counts."""
        return len(self.tokens) - self.prompt


class MappedRows(Sequence[EncodedRow]):
    """Rows of an Arrow file, which are read on access."""

    def __init__(self, file: Path) -> None:
        from datasets import Dataset  # takes a second to import, and rows in memory need none

        self._data = Dataset.from_file(str(file))

    def __len__(self) -> int:
        return len(self._data)

    @overload
    def __getitem__(self, index: int) -> EncodedRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[EncodedRow]: ...
    def __getitem__(self, index: int | slice) -> EncodedRow | Sequence[EncodedRow]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self._data[index]
        return EncodedRow(tuple(row["tokens"]), row["prompt"], Subset(row["subset"]))


@contextmanager
def open_row_writer(file: Path) -> Iterator[WriteRows]:
    """Create an Arrow file and yield a function that appends one record batch of rows to it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as stream:

        def write(rows: Sequence[EncodedRow]) -> None:
            columns = {
                "tokens": [row.tokens for row in rows],
                "prompt": [row.prompt for row in rows],
                "subset": [row.subset.value for row in rows],
            }
            stream.write_batch(pa.record_batch(columns, schema=SCHEMA))

        yield write
