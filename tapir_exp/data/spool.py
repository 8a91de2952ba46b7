"""A spool: pairs on disk, read by their place, so that a pool of any size takes no memory of its own."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from tapir_exp.data.formats import SeedPair

BATCH = 4096
"""Pairs of one Arrow record batch."""


class MappedPairs:
    """Pairs in a memory-mapped Arrow file."""

    def __init__(self, path: Path) -> None:
        import pyarrow

        self._batches = _batches(pyarrow.ipc.open_file(pyarrow.memory_map(str(path))))

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self._batches)

    def __getitem__(self, place: int) -> SeedPair:
        batch, offset = self._batches[place // BATCH], place % BATCH
        row, instruction, response = (batch.column(name)[offset].as_py() for name in ("row", "instruction", "response"))
        return SeedPair(row, instruction, response)

    def instruction(self, place: int) -> str:
        """The instruction at a place, without the rest."""
        text: str = self._batches[place // BATCH].column("instruction")[place % BATCH].as_py()
        return text


def write_mapped_pairs(path: Path, pairs: Iterable[SeedPair]) -> MappedPairs:
    """Put pairs on disk, a batch at a time."""
    import pyarrow

    schema = pyarrow.schema({"row": pyarrow.int64(), "instruction": pyarrow.string(), "response": pyarrow.string()})
    waiting = iter(pairs)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, schema) as writer:
        while batch := list(islice(waiting, BATCH)):
            columns = (
                [pair.row for pair in batch],
                [pair.instruction for pair in batch],
                [pair.response for pair in batch],
            )
            writer.write_batch(pyarrow.record_batch([*map(pyarrow.array, columns)], schema=schema))
    return MappedPairs(path)


def _batches(reader: Any) -> list[Any]:
    return [reader.get_batch(number) for number in range(reader.num_record_batches)]
