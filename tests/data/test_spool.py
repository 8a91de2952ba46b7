"""What is put on disk comes back by its place."""

from pathlib import Path

import pytest

from tapir_exp.data.formats import SeedPair
from tapir_exp.data.spool import BATCH, write_mapped_pairs


@pytest.mark.parametrize("count", [0, 1, BATCH, 2 * BATCH + 5])
def test_pairs_come_back_by_their_place(tmp_path: Path, count: int) -> None:
    pairs = [SeedPair(n + 1, f"Grüße 你好 {n}", f"{n}\n\u2028") for n in range(count)]
    spool = write_mapped_pairs(tmp_path / "pairs.arrow", iter(pairs))
    assert len(spool) == count
    assert [spool[place] for place in range(count)] == pairs
    assert [spool.instruction(place) for place in range(0, count, 997)] == [p.instruction for p in pairs[::997]]
