"""Near duplicates among many texts: MinHash finds the candidates, the exact Jaccard similarity decides.

MinHash and its index are rensa's, which hashes some fifty times as fast as datasketch and needs no scipy.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rensa import RMinHash, RMinHashLSH

from tapir_exp.core.text import tokenize_text

SHINGLE = 3
"""Tokens of a shingle: short, since instructions are."""
BANDS, ROWS_PER_BAND = 16, 4
"""A pair of similarity s becomes a candidate with probability 1 - (1 - s^4)^16: 0.99 at 0.7, 0.64 at 0.5."""
PERMUTATIONS = BANDS * ROWS_PER_BAND
SEED = 1
"""Of the hash functions, so that every run finds the same pairs."""


@dataclass(frozen=True)
class NearDuplicate:
    """The earlier text that one nearly repeats, and their Jaccard similarity, 0 to 1."""

    key: int
    similarity: float


class NearDuplicateIndex:
    """Texts told apart one after another: each is held against the earlier ones that were no duplicates themselves.

    threshold: least Jaccard similarity, over shingles of three tokens, of a duplicate.
    text_of: gives an earlier text back by its key, so that only some 1.4 kB of hashes a text stay in memory.
    """

    def __init__(self, threshold: float, text_of: Callable[[int], str]) -> None:
        self._threshold = threshold
        self._text_of = text_of
        self._index = RMinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, num_bands=BANDS)

    def twin_of(self, key: int, text: str) -> NearDuplicate | None:
        """What `text` nearly repeats: the most similar, and of these the earliest. Else it counts from now on."""
        shingles = extract_shingles(text)
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=SEED)
        sketch.update(sorted(shingles))
        twins = [NearDuplicate(other, self._similarity(shingles, other)) for other in sorted(self._index.query(sketch))]
        closest = max(twins, key=lambda twin: twin.similarity, default=None)
        if closest is not None and closest.similarity >= self._threshold:
            return closest
        self._index.insert(key, sketch)
        return None

    def _similarity(self, shingles: frozenset[str], other: int) -> float:
        return jaccard(shingles, extract_shingles(self._text_of(other)))


def extract_shingles(text: str) -> frozenset[str]:
    """Every three tokens that follow each other; a shorter text is one shingle."""
    tokens = tokenize_text(text)
    if len(tokens) <= SHINGLE:
        return frozenset([" ".join(tokens)])
    return frozenset(map(" ".join, zip(tokens, tokens[1:], tokens[2:], strict=False)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared shingles by all shingles, 0 to 1."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)
