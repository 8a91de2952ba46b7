"""Read rows of JSON, JSON lines, CSV, Parquet and hub datasets, one at a time: a pool may be larger than memory."""

import csv
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from math import isnan
from pathlib import Path
from typing import Any

from tapir_exp.core.errors import SourceError
from tapir_exp.core.json_rows import RawRow, find_invalid_utf8, read_json_rows, refuse_missing, refuse_utf16
from tapir_exp.core.store import sha256_file

BATCH = 1024
"""Rows of a Parquet file in memory at once."""
LONGEST_FIELD = 2**24
"""Characters that one field of a CSV file may have."""


def read_file(path: Path) -> Iterator[RawRow]:
    """Yield the rows of a file; its suffix decides the format.

    Args:
        path: a .json, .jsonl, .csv or .parquet file.

    Raises:
        SourceError: the file is missing, empty, of another suffix, or cannot be read.
    """
    readers: dict[str, Callable[[Path], Iterator[RawRow]]] = {
        ".json": read_json_rows,
        ".jsonl": read_json_rows,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    refuse_missing(path)
    if path.suffix not in readers:
        raise SourceError(
            f"{path} cannot be read: its name ends in {path.suffix!r}; expected one of {', '.join(readers)}."
        )
    # Reading the first row now raises errors of the file here, not when a caller iterates.
    rows = readers[path.suffix](path)
    first = next(rows, None)
    if first is None:
        raise SourceError(f"{path} cannot be read: it holds no rows.")
    return chain([first], rows)


def read_hub(name: str, split: str, files: str | None = None) -> Iterator[RawRow]:
    """Yield the rows of a hub dataset, which stays on disk.

    Args:
        name: name of the dataset on the hub.
        split: the split to read; ignored with `files`.
        files: address of the data, for a dataset that is a script.

    Raises:
        SourceError: the dataset cannot be loaded.
    """
    from datasets import load_dataset  # takes 1.4 s to import, and only this function needs it

    try:
        rows = load_dataset("json", data_files=files, split="train") if files else load_dataset(name, split=split)
    except Exception as error:  # `datasets` raises a dozen kinds
        raise SourceError(f"The hub dataset {name} cannot be loaded: {error.__cause__ or repr(error)}") from error
    return _typed_rows(rows)


def sha256_source(path: Path) -> str:
    """Return the SHA-256 of a file. Raise SourceError if there is no such file."""
    refuse_missing(path)
    return sha256_file(path)


def _typed_rows(rows: Iterable[dict[str, Any]]) -> Iterator[RawRow]:
    """Yield rows with their numbers, and NaN as None: pandas writes an empty column as NaN, also into Parquet."""
    for number, row in enumerate(rows, 1):
        nan = {name for name, value in row.items() if isinstance(value, float) and isnan(value)}
        yield RawRow(number, row | dict.fromkeys(nan) if nan else row)


def _read_csv(path: Path) -> Iterator[RawRow]:
    refuse_utf16(path)
    csv.field_size_limit(LONGEST_FIELD)  # the default of 128 kB is too small for long responses
    with path.open(encoding="utf-8-sig", newline="") as lines:
        try:
            for number, row in enumerate(csv.DictReader(lines), 1):
                # DictReader puts surplus fields under the key None, and None into missing ones.
                is_whole = None not in row and None not in row.values()
                yield RawRow(number, row) if is_whole else RawRow(number, None, "not one field for every column")
        except UnicodeDecodeError as error:
            raise SourceError(f"{path} cannot be read: {find_invalid_utf8(path)}.") from error
        except csv.Error as error:
            raise SourceError(f"{path} cannot be read: {error}.") from error


def _read_parquet(path: Path) -> Iterator[RawRow]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as table:
            yield from _typed_rows(row for batch in table.iter_batches(BATCH) for row in batch.to_pylist())
    except ArrowException as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
