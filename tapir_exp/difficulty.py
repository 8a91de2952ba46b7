"""Model Fitting Difficulty, and the hard set that it selects. Pure.

The paper prints the difficulty as student minus teacher but says in words that a gap above the threshold means
hard; so here MFD = score(teacher) - score(student), and the hard set is what has MFD > delta.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256

from tapir_exp.config import HardSet
from tapir_exp.records import Verdict

Gaps = Mapping[str, float]


def scored_gaps(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """MFD by row id, in points from -9 to 9, of every scored verdict; unscored ones are absent."""
    return {verdict.id: verdict.gap for verdict in verdicts if verdict.gap is not None}


def choose_hard(gaps: Gaps, delta: float, how: HardSet, seed: int) -> frozenset[str]:
    """Ids of the hard set: those with gap > delta, or for the ablation as many rows drawn at random."""
    hard = frozenset(row for row, gap in gaps.items() if gap > delta)
    if how is HardSet.mfd:
        return hard
    return frozenset(sorted(gaps, key=lambda row: uniform(seed, "hard set", row))[: len(hard)])


def uniform(*parts: object) -> float:
    """A number in (0, 1) that depends on `parts` alone: the same in every process and on every machine."""
    digest = sha256("\0".join(map(str, parts)).encode()).digest()
    return (int.from_bytes(digest[:7]) + 0.5) / 2**56
