"""Accept an instruction only if it is new: ROUGE-L against all earlier ones, the filter of Self-Instruct and Lion.

Two texts have at most as many words in common, in order, as they share at all. An inverted index over words finds the
few texts that share enough of them (prefix filtering: Chaudhuri et al. 2006, Bayardo et al. 2007), and rapidfuzz
computes ROUGE-L for these. The decisions are those of a comparison with every text.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from tapir_exp.core.text import split_words

SPARE_ENTRIES = 4096
"""Entries of the index that are read beyond the necessary ones; more of them leave fewer texts to compare."""
BLOCK_TEXTS = 512
"""Texts that are compared at once; the most similar come first, so one block rejects most repeats."""
FIRST_SURROGATE = 0xD800
"""Code points from here on are no characters of their own, up to 0xDFFF."""

Ids = NDArray[np.int64]
Key = int | tuple[int, int]
"""Number of a word; for its second and later occurrences in a text, with their number."""


class Novelty:
    """All instructions so far, and the largest similarity that a new one may have."""

    def __init__(self, bound: float, seen: Iterable[str]) -> None:
        """Index the earlier instructions.

        Args:
            bound: Largest ROUGE-L (F1 over words, 0 to 1) with any earlier instruction; at 1, only a repeat is
                rejected.
            seen: The earlier instructions.
        """
        self._bound = bound
        self._seen: set[str] = set()
        self._compared: dict[str, tuple[bool, int]] = {}  # results of `look_ahead`, with the texts compared
        self._numbers: dict[str, int] = {}  # of the words
        self._words = array("I")  # of all texts, one text after another
        self._starts, self._lengths = array("q"), array("q")  # of each text in `_words`
        self._index: dict[Key, array[int]] = {}  # texts that have a word, by its key
        self._codes = np.zeros(1, np.uint32)  # code point of each word in a comparison, otherwise 0
        for instruction in seen:
            self._add(instruction)

    def admit(self, instruction: str) -> bool:
        """Return True and add the instruction if it is new; return False otherwise."""
        if instruction in self._seen:
            return False
        is_close, compared = self._compared.pop(instruction, (False, 0))
        if is_close or self._is_close(instruction, compared):
            return False
        self._add(instruction)
        return True

    def look_ahead(self, instruction: str) -> None:
        """Compare an instruction with all texts so far, so that `admit` compares it only with later ones.

        That is most of the work of `admit`. It depends on no order, so it can be done as soon as a reply is there.
        """
        if instruction not in self._seen and instruction not in self._compared:
            self._compared[instruction] = self._is_close(instruction, 0), len(self._starts)

    def _add(self, instruction: str) -> None:
        self._seen.add(instruction)
        if self._bound >= 1:
            return
        numbers = [self._numbers.setdefault(word, len(self._numbers)) for word in split_words(instruction)]
        for key in _keys(numbers):
            self._index.setdefault(key, array("I")).append(len(self._starts))
        self._starts.append(len(self._words))
        self._lengths.append(len(numbers))
        self._words.extend(numbers)

    def _is_close(self, instruction: str, first: int) -> bool:
        """Return whether a text from number `first` on is closer than the bound allows."""
        if self._bound >= 1 or first == len(self._starts):
            return False
        # Words that no text has get numbers below zero, so that they equal nothing.
        unknown: dict[str, int] = {}
        numbers = [
            unknown.setdefault(word, -1 - len(unknown)) if (number := self._numbers.get(word)) is None else number
            for word in split_words(instruction)
        ]
        texts = self._find_candidates(numbers, first)
        blocks = (texts[start : start + BLOCK_TEXTS] for start in range(0, len(texts), BLOCK_TEXTS))
        return any(self._is_close_to_any(numbers, block) for block in blocks)

    def _find_candidates(self, numbers: Sequence[int], first: int) -> Ids:
        """Return the texts from number `first` on that share enough words to be close, the most similar first."""
        length = len(numbers)
        lists = sorted((self._index.get(key, array("I")) for key in _keys(numbers)), key=len)
        # A close text shares that many words. So it has one of the others, of which the rarest are the cheapest.
        least = self._least_shared(length)
        read = min(length, length - least + 1)
        entries = sum(map(len, lists[:read]))
        budget = entries + SPARE_ENTRIES
        while read < length and entries + len(lists[read]) <= budget:
            entries += len(lists[read])
            read += 1
        if not entries:
            return np.zeros(0, np.int64)
        ids = np.concatenate([np.frombuffer(texts, np.uint32) for texts in lists[:read] if texts])
        texts, counts = np.unique(ids[ids >= first], return_counts=True)
        lengths = np.frombuffer(self._lengths, np.int64)[texts]
        # A text may have all the words of the lists that were not read.
        shared = np.minimum(counts + (length - read), np.minimum(lengths, length))
        similarity = 2 * shared / (lengths + length)
        possible = similarity > self._bound
        found: Ids = texts[possible][np.argsort(-similarity[possible], kind="stable")].astype(np.int64)
        return found

    def _least_shared(self, length: int) -> int:
        """Return the fewest words that a text shares with one of `length` words if it is too close to it."""
        # A text that consists of shared words alone needs the fewest: a longer one has a smaller F1.
        shared = 1
        while shared < length and 2 * shared / (shared + length) <= self._bound:
            shared += 1
        return shared

    def _is_close_to_any(self, numbers: Sequence[int], texts: Ids) -> bool:
        """Return whether any of these texts is closer than the bound allows."""
        # Words become characters, because rapidfuzz compares strings fastest. All words that the new text lacks are the
        # same character, so small codes suffice for any vocabulary.
        distinct = sorted(set(numbers))
        first_code = 1 if len(distinct) < FIRST_SURROGATE - 1 else 0x10000
        code_of = {number: first_code + index for index, number in enumerate(distinct)}
        known = [number for number in distinct if number >= 0]
        if len(self._codes) < len(self._numbers):
            self._codes = np.zeros(2 * len(self._numbers), np.uint32)
        self._codes[known] = [code_of[number] for number in known]
        starts, lengths = (np.frombuffer(values, np.int64)[texts] for values in (self._starts, self._lengths))
        ends = lengths.cumsum()
        positions = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
        joined = self._codes[np.frombuffer(self._words, np.uint32)[positions]].tobytes().decode("utf-32-le")
        self._codes[known] = 0
        others = [joined[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
        new = "".join(chr(code_of[number]) for number in numbers)
        totals = lengths + len(numbers)
        least = int(self._bound * totals.min() / 2)  # rapidfuzz may stop counting below this
        common = cdist([new], others, scorer=LCSseq.similarity, score_cutoff=least, dtype=np.int32)[0]
        return bool((2 * common / totals > self._bound).any())


def _keys(numbers: Sequence[int]) -> list[Key]:
    """Return a key for each word of a text; two texts share as many keys as they share words, repeats included."""
    if len(set(numbers)) == len(numbers):
        return list(numbers)
    seen: Counter[int] = Counter()
    keys: list[Key] = []
    for number in numbers:
        keys.append((number, seen[number]) if seen[number] else number)
        seen[number] += 1
    return keys
