"""Rows in an Arrow file."""

from pathlib import Path

import pyarrow as pa
import pytest

from tapir_exp.core.records import Subset
from tapir_exp.student.training.encoded_rows import EncodedRow, MappedRows, open_row_writer


@pytest.mark.slow
def test_mapped_rows_are_not_read_into_memory(tmp_path: Path) -> None:
    """An Arrow file of 50 MB allocates far less than its size."""
    before = pa.total_allocated_bytes()
    long = EncodedRow(tuple(range(4000)), 5, Subset.HARD)
    with open_row_writer(tmp_path / "rows") as write:
        for _ in range(3):
            write([long] * 1000)
    mapped = MappedRows(tmp_path / "rows")
    assert (tmp_path / "rows").stat().st_size > 45e6
    assert mapped[2999] == long
    assert pa.total_allocated_bytes() - before < 1e6
