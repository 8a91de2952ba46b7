"""Pairs that are written to disk are read back by their index."""

from pathlib import Path

import pytest

from tapir_exp.data.formats import SeedPair
from tapir_exp.data.mapped_pairs import BATCH, write_mapped_pairs


@pytest.mark.parametrize("count", [0, 1, BATCH, 2 * BATCH + 5])
def test_mapped_pairs_are_read_by_index(tmp_path: Path, count: int) -> None:
    pairs = [SeedPair(n + 1, f"Grüße 你好 {n}", f"{n}\n\u2028") for n in range(count)]
    mapped = write_mapped_pairs(tmp_path / "pairs.arrow", iter(pairs))
    assert len(mapped) == count
    assert [mapped[index] for index in range(count)] == pairs
    assert [mapped.instruction(index) for index in range(0, count, 997)] == [p.instruction for p in pairs[::997]]
