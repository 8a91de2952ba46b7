"""Whether a new instruction is new: ROUGE-L against everything seen, as Lion filters its generations."""

from collections.abc import Iterable

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from tapir_exp.core.text import split_words

FIRST_SIGN = 0x10000
"""Code point of the first word: beyond the surrogates, with room for a million words."""


class Novelty:
    """Everything seen so far, and the bound that a new instruction must keep.

    bound: largest ROUGE-L (F1 over words, 0 to 1) with anything seen; at 1, only a repeat is refused.

    Words are held as single signs, so that rapidfuzz compares strings; and since two texts share no more words than
    the shorter has, only texts of a like length can break the bound. Neither changes what is found.
    """

    def __init__(self, bound: float, seen: Iterable[str]) -> None:
        self._bound = bound
        self._texts: set[str] = set()
        self._signs: dict[str, str] = {}
        self._by_length: dict[int, list[str]] = {}
        for instruction in seen:
            self._remember(instruction)

    def admit(self, instruction: str) -> bool:
        """Whether `instruction` is new; if so it counts as seen from now on."""
        if instruction in self._texts or self._is_close(instruction):
            return False
        self._remember(instruction)
        return True

    def _remember(self, instruction: str) -> None:
        self._texts.add(instruction)
        if self._bound < 1:
            written = self._written(instruction)
            self._by_length.setdefault(len(written), []).append(written)

    def _written(self, instruction: str) -> str:
        signs = self._signs
        return "".join(signs.setdefault(word, chr(FIRST_SIGN + len(signs))) for word in split_words(instruction))

    def _is_close(self, instruction: str) -> bool:
        written = self._written(instruction) if self._bound < 1 else ""
        return any(self._is_close_to_one(written, length, texts) for length, texts in self._by_length.items())

    def _is_close_to_one(self, written: str, length: int, texts: list[str]) -> bool:
        """Whether one of `texts`, all of `length` words, is closer than the bound allows."""
        whole = len(written) + length
        if not whole or 2 * min(len(written), length) / whole <= self._bound:
            return False
        least = int(self._bound * whole / 2)  # below this rapidfuzz need not count to the end
        common = cdist([written], texts, scorer=LCSseq.similarity, score_cutoff=least, dtype=np.int32).max()
        return bool(2 * common / whole > self._bound)
