"""Keep instruction-response pairs in a memory-mapped Arrow file, so that a pool may be larger than memory."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from tapir_exp.data.formats import SeedPair

BATCH = 4096
"""Pairs of one Arrow record batch."""


class MappedPairs:
    """Pairs in a memory-mapped Arrow file, read by their index."""

    def __init__(self, path: Path) -> None:
        import pyarrow

        reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self._batches)

    def __getitem__(self, index: int) -> SeedPair:
        # Every batch but the last is full, so the index alone gives the batch.
        batch, offset = self._batches[index // BATCH], index % BATCH
        names = ("row_number", "instruction", "response")
        return SeedPair(*(batch.column(name)[offset].as_py() for name in names))

    def instruction(self, index: int) -> str:
        """Return the instruction of a pair without reading its response."""
        text: str = self._batches[index // BATCH].column("instruction")[index % BATCH].as_py()
        return text


def write_mapped_pairs(path: Path, pairs: Iterable[SeedPair]) -> MappedPairs:
    """Write pairs to an Arrow file, a batch at a time, and map it.

    Args:
        path: the file to write.
        pairs: the pairs; at most `BATCH` of them are in memory at once.
    """
    import pyarrow

    text = pyarrow.string()
    schema = pyarrow.schema({"row_number": pyarrow.int64(), "instruction": text, "response": text})
    remaining = iter(pairs)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, schema) as writer:
        while batch := list(islice(remaining, BATCH)):
            columns = (
                [pair.row_number for pair in batch],
                [pair.instruction for pair in batch],
                [pair.response for pair in batch],
            )
            writer.write_batch(pyarrow.record_batch([*map(pyarrow.array, columns)], schema=schema))
    return MappedPairs(path)
