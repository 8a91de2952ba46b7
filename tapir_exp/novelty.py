"""Whether a new instruction is new: ROUGE-L against everything seen, as Lion filters its generations."""

import re
from collections.abc import Iterable

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist


class Novelty:
    """Everything seen so far, and the bound that a new instruction must keep.

    bound: largest ROUGE-L (F1 over words, 0 to 1) with anything seen; at 1, only a repeat is refused.
    """

    def __init__(self, bound: float, seen: Iterable[str]) -> None:
        self._bound = bound
        self._texts: set[str] = set()
        self._words: list[list[str]] = []
        for instruction in seen:
            self._remember(instruction)

    def admit(self, instruction: str) -> bool:
        """Whether `instruction` is new; if so it counts as seen from now on."""
        if instruction in self._texts or self._closest(words_of(instruction)) > self._bound:
            return False
        self._remember(instruction)
        return True

    def _remember(self, instruction: str) -> None:
        self._texts.add(instruction)
        self._words.append(words_of(instruction))

    def _closest(self, words: list[str]) -> float:
        if self._bound >= 1 or not self._words:
            return 0.0
        common = cdist([words], self._words, scorer=LCSseq.similarity, dtype=np.int32)[0]
        lengths = np.array([len(words) + len(other) for other in self._words])
        return float((2 * common / np.maximum(lengths, 1)).max())


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers, as ROUGE counts them (Lin 2004)."""
    return re.findall(r"[a-z0-9]+", text.lower())
