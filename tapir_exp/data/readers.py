"""Read rows of JSON, JSON lines, CSV, Parquet and hub datasets, one at a time: a pool may be larger than memory."""

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from tapir_exp.core.encodings import refuse_missing
from tapir_exp.core.errors import SourceError
from tapir_exp.core.json_rows import RawRow, read_json_rows
from tapir_exp.core.store import sha256_file
from tapir_exp.data.arrow_rows import BATCH, arrow_rows, read_arrow, read_parquet
from tapir_exp.data.csv_rows import read_csv


def read_file(path: Path) -> Iterator[RawRow]:
    """Yield the rows of a file; its suffix determines the format.

    Args:
        path: a .json, .jsonl, .csv, .parquet or .arrow file.

    Raises:
        SourceError: the file is missing, empty, of another suffix, or cannot be read.
    """
    readers: dict[str, Callable[[Path], Iterator[RawRow]]] = {
        ".json": read_json_rows,
        ".jsonl": read_json_rows,
        ".csv": read_csv,
        ".parquet": read_parquet,
        ".arrow": read_arrow,
    }
    refuse_missing(path)
    if path.suffix.lower() not in readers:
        raise SourceError(
            f"{path} cannot be read: its name ends in {path.suffix!r}; expected one of {', '.join(readers)}."
        )
    # Reading the first row now raises errors of the file here, not when a caller iterates.
    rows = readers[path.suffix.lower()](path)
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
    # Arrow's format leaves images and audio as they are: decoding them needs further packages.
    return arrow_rows(rows.with_format("arrow").iter(BATCH))


def sha256_source(path: Path) -> str:
    """Return the SHA-256 of a file. Raise SourceError if there is no such file."""
    refuse_missing(path)
    return sha256_file(path)
