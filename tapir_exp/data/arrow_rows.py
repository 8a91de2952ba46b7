"""Read rows of Parquet and Arrow files, and of hub datasets, value by value if a whole column cannot be converted."""

from collections.abc import Iterable, Iterator
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tapir_exp.core.errors import SourceError
from tapir_exp.core.json_rows import RawRow
from tapir_exp.core.json_values import Unreadable

if TYPE_CHECKING:
    from pyarrow import Array, ChunkedArray, RecordBatch, Table

BATCH = 1024
"""Rows in memory at once."""


def read_parquet(path: Path) -> Iterator[RawRow]:
    """Yield the rows of a Parquet file. Raise SourceError if it is not one."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as table:
            yield from arrow_rows(table.iter_batches(BATCH))
    except (ArrowException, OSError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error


def read_arrow(path: Path) -> Iterator[RawRow]:
    """Yield the rows of an Arrow file or stream. Raise SourceError if it is neither."""
    from pyarrow import ArrowException, ArrowInvalid, ipc, memory_map

    try:
        with memory_map(str(path)) as source:
            try:
                reader = ipc.open_file(source)
            except ArrowInvalid:  # `datasets` writes streams
                source.seek(0)
                yield from arrow_rows(ipc.open_stream(source))
            else:
                yield from arrow_rows(reader.get_batch(number) for number in range(reader.num_record_batches))
    except (ArrowException, OSError) as error:
        raise SourceError(f"{path} cannot be read: {error}") from error


def arrow_rows(batches: "Iterable[RecordBatch | Table]") -> Iterator[RawRow]:
    """Yield the rows of batches with their numbers, and NaN and infinity as None.

    Pandas writes an empty column as NaN. Maps become dictionaries, also within lists.
    """
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, BATCH):  # a batch of a file may hold all of its rows
            part = batch.slice(start, BATCH)
            columns = [_to_python(part.column(index)) for index in range(part.num_columns)]
            for values in zip(*columns, strict=True):
                number += 1
                yield RawRow(number, dict(zip(part.schema.names, values, strict=True)))


def _to_python(column: "Array[Any] | ChunkedArray[Any]") -> list[Any]:
    """Convert a column; a value that Python cannot hold becomes an `Unreadable`."""
    try:
        values = column.to_pylist(maps_as_pydicts="lossy")
    except (ValueError, OverflowError):  # invalid UTF-8, dates beyond the year 9999; ArrowInvalid is a ValueError
        values = [_value_to_python(value) for value in column]
    return [None if isinstance(value, float) and not isfinite(value) else value for value in values]


def _value_to_python(value: Any) -> Any:
    try:
        return value.as_py(maps_as_pydicts="lossy")
    except UnicodeDecodeError as error:
        return Unreadable(f"not valid UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start} of it")
    except (ValueError, OverflowError) as error:
        return Unreadable(f"no value of Python: {error}")
