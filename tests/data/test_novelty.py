"""New instructions: ROUGE-L over words against all earlier ones."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.core.text import split_words
from tapir_exp.data.novelty import Novelty

sentences = st.lists(st.sampled_from("abcde"), max_size=8).map(" ".join)


def admits(bound: float, seen: Sequence[str], new: str) -> bool:
    return Novelty(bound, seen).admit(new)


def rouge_l(left: Sequence[str], right: Sequence[str]) -> float:
    """Return the F1 of the longest common subsequence, by the textbook's table."""
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else max(table[i][j + 1], table[i + 1][j])
    return 2 * table[-1][-1] / (len(left) + len(right)) if left or right else 0.0


BY_HAND = [
    ("the cat sat on the mat", "the cat is on the mat", 10 / 12),  # the cat on the mat: 5 of 6 and 6
    ("police killed the gunman", "police kill the gunman", 6 / 8),  # Lin 2004: police the gunman
    ("police killed the gunman", "the gunman kill police", 4 / 8),  # Lin 2004: the gunman
    ("a b c d", "d c b a", 2 / 8),
    ("what is 2 + 2?", "What is 2 - 3?", 6 / 8),  # signs are not words
    ("one two", "three four", 0.0),
    ("one", "one two three four", 2 / 5),
    ("Write a poem.", "write a POEM!", 1.0),
]


@pytest.mark.parametrize(("seen", "new", "value"), BY_HAND)
def test_admit_respects_bounds_by_hand(seen: str, new: str, value: float) -> None:
    for one, other in ((seen, new), (new, seen)):
        assert admits(value + 1e-9, [one], other)
        assert value == 0 or not admits(value - 1e-9, [one], other)


def test_admit_accepts_a_text_at_the_bound() -> None:
    assert admits(0.75, ["police killed the gunman"], "police kill the gunman")


@given(seen=st.lists(sentences, max_size=4), new=sentences, bound=st.floats(0.01, 0.999))
def test_admit_compares_with_the_closest_text(seen: list[str], new: str, bound: float) -> None:
    closest = max((rouge_l(split_words(other), split_words(new)) for other in seen), default=0.0)
    assert admits(bound, seen, new) is (new not in seen and closest <= bound)


WORDS = [*"abcdefghijklmnopqrstuvwxyz", *(f"w{number}" for number in range(300))]
texts = st.lists(st.sampled_from(WORDS) | st.sampled_from("abc"), max_size=30).map(" ".join)
variants = st.tuples(texts, st.randoms()).map(lambda pair: [pair[0], _edit(*pair)])


def _edit(text: str, random: Random) -> str:
    """Return the text with some words replaced, dropped or exchanged."""
    words = text.split()
    for _ in range(random.randint(0, 6) if words else 0):
        index = random.randrange(len(words))
        words[index] = random.choice([*WORDS[:4], "", words[random.randrange(len(words))]])
    return " ".join(words)


@given(pairs=st.lists(variants, max_size=12), bound=st.floats(0.0, 0.999) | st.sampled_from([0.5, 0.7, 2 / 3]))
def test_admit_decides_as_a_comparison_with_every_text(pairs: list[list[str]], bound: float) -> None:
    """Texts come one after another, some are compared ahead, and no list of the index is read for free."""
    proposals = [text for pair in pairs for text in pair]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tapir_exp.data.novelty.SPARE_ENTRIES", len(proposals) % 3)
        patch.setattr("tapir_exp.data.novelty.BLOCK_TEXTS", 2)
        tested, accepted = Novelty(bound, proposals[:3]), list(dict.fromkeys(proposals[:3]))
        for number, text in enumerate(proposals):
            for ahead in proposals[number : number + number % 3]:
                tested.look_ahead(ahead)
            close = any(rouge_l(split_words(text), split_words(other)) > bound for other in accepted)
            expected = text not in accepted and not close
            assert tested.admit(text) is expected
            accepted += [text] * expected


def test_look_ahead_does_the_comparison_of_admit(monkeypatch: pytest.MonkeyPatch) -> None:
    novelty = Novelty(0.7, [f"a{n} b{n} c{n} d{n}" for n in range(5)])
    novelty.look_ahead("a1 b1 c1 x")
    novelty.look_ahead("x y z")
    monkeypatch.setattr(Novelty, "_find_candidates", None)
    assert [novelty.admit(text) for text in ("a1 b1 c1 x", "x y z")] == [False, True]


@given(one=sentences, other=sentences, bound=st.floats(0.01, 1))
def test_admit_is_symmetric(one: str, other: str, bound: float) -> None:
    assert admits(bound, [one], other) is admits(bound, [other], one)


@pytest.mark.parametrize(
    ("new", "admitted"),
    [("Add 2 and 3.", False), ("add 2 and 3", True), ("Add 2 and 3. ", True), ("3 and 2 add", True)],
)
def test_admit_at_bound_one_rejects_only_repeats(new: str, admitted: bool) -> None:
    assert admits(1.0, ["Add 2 and 3."], new) is admitted


@pytest.mark.parametrize("bound", [0.7, 1.0])
def test_admitted_text_counts_as_seen(bound: float) -> None:
    novelty = Novelty(bound, [])
    assert [novelty.admit("Write a poem about rain.") for _ in range(3)] == [True, False, False]


def test_rejected_text_does_not_count_as_seen() -> None:
    novelty = Novelty(0.7, ["a b c d e f g h"])
    assert not novelty.admit("a b c d e f x y")  # 12 / 16
    assert novelty.admit("c d e f x y")  # 8 / 14 with the seen text, 12 / 14 with the rejected one


def test_texts_without_words_are_new_unless_repeated() -> None:
    novelty = Novelty(0.7, ["?!"])
    assert [novelty.admit(text) for text in ("?!", "…", "", "")] == [False, True, True, False]


def test_admit_counts_words_of_chinese() -> None:
    assert not admits(0.7, ["请写一首关于春天的诗"], "请写一首关于秋天的诗")
    assert admits(0.7, ["请写一首关于春天的诗"], "什么是光合作用")


def test_admit_distinguishes_many_words() -> None:
    novelty = Novelty(0.7, [" ".join(f"w{n}{m}" for m in range(9)) for n in range(9000)])
    assert novelty.admit("w1x w2x w3x w4x")
    assert not novelty.admit(" ".join(f"w8999{m}" for m in range(8)))
