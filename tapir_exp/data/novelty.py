"""Accept an instruction only if it is new: ROUGE-L against all earlier ones, the filter of Self-Instruct and Lion."""

from collections.abc import Iterable

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from tapir_exp.core.text import split_words

FIRST_CODE_POINT = 0x10000
"""Code point of the first word: beyond the surrogates, with space for a million words."""


class Novelty:
    """All instructions so far, and the largest similarity that a new one may have.

    Each word is encoded as one character, so that rapidfuzz compares strings. Two texts share no more words than the
    shorter one has, so only texts of similar length can exceed the bound. Neither changes a result.

    Args:
        bound: largest ROUGE-L (F1 over words, 0 to 1) with any earlier instruction; at 1, only a repeat is rejected.
        seen: the earlier instructions.
    """

    def __init__(self, bound: float, seen: Iterable[str]) -> None:
        self._bound = bound
        self._texts: set[str] = set()
        self._codes: dict[str, str] = {}
        self._by_length: dict[int, list[str]] = {}
        for instruction in seen:
            self._add(instruction)

    def admit(self, instruction: str) -> bool:
        """Return True and add the instruction if it is new; return False otherwise."""
        if instruction in self._texts or self._is_close(instruction):
            return False
        self._add(instruction)
        return True

    def _add(self, instruction: str) -> None:
        self._texts.add(instruction)
        if self._bound < 1:
            encoded = self._encode(instruction)
            self._by_length.setdefault(len(encoded), []).append(encoded)

    def _encode(self, instruction: str) -> str:
        codes = self._codes
        return "".join(codes.setdefault(word, chr(FIRST_CODE_POINT + len(codes))) for word in split_words(instruction))

    def _is_close(self, instruction: str) -> bool:
        encoded = self._encode(instruction) if self._bound < 1 else ""
        return any(self._is_close_to_any(encoded, length, texts) for length, texts in self._by_length.items())

    def _is_close_to_any(self, encoded: str, length: int, texts: list[str]) -> bool:
        """Return whether any of `texts`, all of `length` words, is closer than the bound allows."""
        total = len(encoded) + length
        # F1 = 2 * common / total, and the common subsequence has at most the words of the shorter text.
        if not total or 2 * min(len(encoded), length) / total <= self._bound:
            return False
        least = int(self._bound * total / 2)  # rapidfuzz may stop counting below this
        common = cdist([encoded], texts, scorer=LCSseq.similarity, score_cutoff=least, dtype=np.int32).max()
        return bool(2 * common / total > self._bound)
