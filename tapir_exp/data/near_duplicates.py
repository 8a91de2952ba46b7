"""Find near duplicates among many texts: MinHash finds candidates, which the exact Jaccard similarity confirms.

MinHash and its index come from rensa, which hashes some fifty times as fast as datasketch and needs no scipy.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rensa import RMinHash, RMinHashLSH

from tapir_exp.core.text import tokenize_text

SHINGLE = 3
"""Tokens of a shingle: short, since instructions are short."""
BANDS, ROWS_PER_BAND = 16, 4
"""A pair of similarity s becomes a candidate with probability 1 - (1 - s^4)^16: 0.99 at 0.7, 0.64 at 0.5."""
PERMUTATIONS = BANDS * ROWS_PER_BAND
SEED = 1
"""Seed of the hash functions, so that every run finds the same pairs."""


@dataclass(frozen=True)
class NearDuplicate:
    """The earlier text that a text nearly repeats.

    Attributes:
        key: key of the earlier text.
        similarity: Jaccard similarity of their shingles, 0 to 1.
    """

    key: int
    similarity: float


class NearDuplicateIndex:
    """Compare texts, one after another, with the earlier ones that were not duplicates themselves.

    Args:
        threshold: smallest Jaccard similarity, over shingles of three tokens, of a duplicate.
        text_of: returns an earlier text by its key, so that only about 1.4 kB of hashes per text stay in memory.
    """

    def __init__(self, threshold: float, text_of: Callable[[int], str]) -> None:
        self._threshold = threshold
        self._text_of = text_of
        self._index = RMinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, num_bands=BANDS)

    def find_duplicate(self, key: int, text: str) -> NearDuplicate | None:
        """Return the most similar earlier text, the earliest of equals, if it reaches the threshold.

        Otherwise add `text` to the index under `key` and return None.
        """
        shingles = extract_shingles(text)
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=SEED)
        sketch.update(sorted(shingles))  # a set has another order in each process
        candidates = [
            NearDuplicate(other, jaccard(shingles, extract_shingles(self._text_of(other))))
            for other in sorted(self._index.query(sketch))
        ]
        # max returns the first of equals, and the candidates are sorted by age.
        closest = max(candidates, key=lambda candidate: candidate.similarity, default=None)
        if closest is not None and closest.similarity >= self._threshold:
            return closest
        self._index.insert(key, sketch)
        return None


def extract_shingles(text: str) -> frozenset[str]:
    """Return all runs of three tokens; a shorter text is one shingle."""
    tokens = tokenize_text(text)  # signs included: "2 + 2" and "2 - 2" differ in nothing else
    if len(tokens) <= SHINGLE:
        return frozenset([" ".join(tokens)])
    return frozenset(map(" ".join, zip(tokens, tokens[1:], tokens[2:], strict=False)))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Return the number of shared shingles over the number of all shingles, 0 to 1."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)
