"""Near duplicates: exact similarities worked by hand, and candidates that MinHash does not miss."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.data.near_duplicates import NearDuplicateIndex, jaccard, shingles

LONG = "write a short poem about the rain in spring for a child of seven years"  # 15 words, 13 shingles


def twins(texts: Sequence[str], threshold: float = 0.7) -> list[tuple[int, float] | None]:
    index = NearDuplicateIndex(threshold, lambda key: texts[key])
    found = [index.twin_of(key, text) for key, text in enumerate(texts)]
    return [None if twin is None else (twin.key, round(twin.similarity, 3)) for twin in found]


@pytest.mark.parametrize(
    ("one", "other", "similarity"),
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
def test_similarities_worked_by_hand(one: str, other: str, similarity: float) -> None:
    assert jaccard(shingles(one), shingles(other)) == pytest.approx(similarity)


def test_a_later_text_is_the_duplicate_of_an_earlier_one() -> None:
    assert twins([LONG, "something else altogether, really", LONG + " now", LONG.upper()]) == [
        None,
        None,
        (0, round(13 / 14, 3)),
        (0, 1.0),
    ]


def test_a_duplicate_is_nobodys_original() -> None:
    words = [f"w{n}" for n in range(40)]
    texts = [" ".join(words[start : start + 30]) for start in (0, 3, 6)]  # neighbours 25/31, the ends 22/34
    assert twins(texts) == [None, (0, round(25 / 31, 3)), None]


def test_the_most_similar_original_is_named() -> None:
    assert twins([LONG, LONG + " x y z u v", LONG + " x y z u"], 0.75) == [None, None, (1, round(17 / 18, 3))]


def test_a_number_makes_another_problem() -> None:
    assert twins([f"What is {n} plus {n + 1}, and what is its half?" for n in range(9)]) == [None] * 9


@pytest.mark.parametrize("texts", [["", ""], ["Hi", "hi"]])
def test_short_texts_are_held_against_each_other_whole(texts: list[str]) -> None:
    assert twins(texts) == [None, (0, 1.0)]


def test_of_pairs_at_the_threshold_one_in_eighty_is_missed() -> None:
    rng, missed = Random(0), 0
    for pair in range(400):
        words = [f"{pair}-{rng.random()}" for _ in range(40)]
        other = [*words[:-6], *(f"{rng.random()}" for _ in range(6))]
        texts = [" ".join(words), " ".join(other)]
        similarity = jaccard(*map(shingles, texts))
        assert similarity > 0.7
        missed += twins(texts)[1] is None
    assert missed <= 12


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=12).map(" ".join), max_size=12))
def test_whoever_is_left_out_is_similar_to_one_that_stays(texts: list[str]) -> None:
    found = twins(texts, 0.5)
    for place, twin in enumerate(found):
        if twin is not None:
            assert found[twin[0]] is None
            assert twin[0] < place
            assert jaccard(shingles(texts[place]), shingles(texts[twin[0]])) >= 0.5
