"""Encoded rows, in memory or mapped into it from a file, so that a large training set need not fit."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import overload

import pyarrow as pa
from datasets import Dataset

from tapir_exp.core.records import Subset

SCHEMA = pa.schema([("tokens", pa.list_(pa.int32())), ("prompt", pa.int32()), ("part", pa.string())])
WRITTEN_AT_ONCE = 1024
"""Rows of one block of the file."""


@dataclass(frozen=True)
class EncodedRow:
    """A training row as token ids: prompt, response, end of turn.

    prompt: tokens of the prompt; they are read, never supervised.
    """

    tokens: tuple[int, ...]
    prompt: int
    subset: Subset

    @property
    def supervised(self) -> int:
        """Tokens that the loss counts."""
        return len(self.tokens) - self.prompt


class MappedRows(Sequence[EncodedRow]):
    """Rows of a file, read when they are asked for."""

    def __init__(self, file: Path) -> None:
        self._data = Dataset.from_file(str(file))

    def __len__(self) -> int:
        return len(self._data)

    @overload
    def __getitem__(self, index: int) -> EncodedRow: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[EncodedRow]: ...
    def __getitem__(self, index: int | slice) -> EncodedRow | Sequence[EncodedRow]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        row = self._data[index]
        return EncodedRow(tuple(row["tokens"]), row["prompt"], Subset(row["part"]))


def write_rows_to_map(rows: Iterable[EncodedRow], file: Path) -> MappedRows:
    """Write rows to an Arrow file, a block at a time, and map it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as stream:
        rows = iter(rows)
        while some := list(islice(rows, WRITTEN_AT_ONCE)):
            columns = {
                "tokens": [row.tokens for row in some],
                "prompt": [row.prompt for row in some],
                "part": [row.subset.value for row in some],
            }
            stream.write_batch(pa.record_batch(columns, schema=SCHEMA))
    return MappedRows(file)
