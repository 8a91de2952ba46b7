"""Near duplicates: similarities computed by hand, and how many candidates MinHash misses."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.data.near_duplicates import NearDuplicateIndex, extract_shingles, jaccard

LONG = "write a short poem about the rain in spring for a child of seven years"  # 15 words, 13 shingles


def duplicates(texts: Sequence[str], threshold: float = 0.7) -> list[tuple[int, float] | None]:
    index = NearDuplicateIndex(threshold, lambda key: texts[key])
    results = [index.find_duplicate(key, text) for key, text in enumerate(texts)]
    return [result and (result.key, round(result.similarity, 3)) for result in results]


@pytest.mark.parametrize(
    ("left", "right", "similarity"),
    [
        ("a b c d", "a b c d", 1.0),
        ("a b c d", "A  b, c d", 0.0),  # the comma breaks both shingles
        ("a b c d e", "a b c d f", 2 / 4),
        ("a b", "a b", 1.0),
        ("a b", "b a", 0.0),
        ("What is 2 + 2?", "What is 2 - 2?", 1 / 7),
        (LONG, LONG + " now", 13 / 14),
    ],
)
def test_jaccard_equals_values_by_hand(left: str, right: str, similarity: float) -> None:
    assert jaccard(extract_shingles(left), extract_shingles(right)) == pytest.approx(similarity)


def test_find_duplicate_returns_the_earlier_text() -> None:
    assert duplicates([LONG, "something else altogether, really", LONG + " now", LONG.upper()]) == [
        None,
        None,
        (0, round(13 / 14, 3)),
        (0, 1.0),
    ]


def test_find_duplicate_ignores_dropped_texts() -> None:
    """A text that was itself a duplicate is not in the index: the third repeats the second alone."""
    words = [f"w{n}" for n in range(40)]
    texts = [" ".join(words[start : start + 30]) for start in (0, 3, 6)]  # neighbours 25/31, the ends 22/34
    assert duplicates(texts) == [None, (0, round(25 / 31, 3)), None]


def test_find_duplicate_returns_the_most_similar() -> None:
    assert duplicates([LONG, LONG + " x y z u v", LONG + " x y z u"], 0.75) == [None, None, (1, round(17 / 18, 3))]


def test_texts_with_other_numbers_are_distinct() -> None:
    assert duplicates([f"What is {n} plus {n + 1}, and what is its half?" for n in range(9)]) == [None] * 9


@pytest.mark.parametrize("texts", [["", ""], ["Hi", "hi"]])
def test_short_texts_are_compared_as_a_whole(texts: list[str]) -> None:
    assert duplicates(texts) == [None, (0, 1.0)]


def test_minhash_misses_few_pairs_at_the_threshold() -> None:
    rng, missed = Random(0), 0
    for pair in range(400):
        words = [f"{pair}-{rng.random()}" for _ in range(40)]
        other = [*words[:-6], *(f"{rng.random()}" for _ in range(6))]
        texts = [" ".join(words), " ".join(other)]
        similarity = jaccard(*map(extract_shingles, texts))
        assert similarity > 0.7
        missed += duplicates(texts)[1] is None
    assert missed <= 12


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=12).map(" ".join), max_size=12))
def test_every_duplicate_is_similar_to_an_indexed_text(texts: list[str]) -> None:
    results = duplicates(texts, 0.5)
    for index, result in enumerate(results):
        if result is not None:
            assert results[result[0]] is None
            assert result[0] < index
            assert jaccard(extract_shingles(texts[index]), extract_shingles(texts[result[0]])) >= 0.5
