"""Orders are filled with what is new and of the ordered type, never beyond, and every proposal is accounted for."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import count, product
from random import Random

import pytest
from fakes import example
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.config import TeacherConfig
from tapir_exp.expansion import Classify, Expand, Growth, commissions_of, grow, sample_of
from tapir_exp.novelty import Novelty
from tapir_exp.records import Example, Label, Origin, Part, example_id
from tapir_exp.schedule import Candidate, Order
from tapir_exp.taxonomy import TaskType
from tapir_exp.teacher import Commission, Pair

MATH, LAW = TaskType.MATH, TaskType.LAW
CONFIG = TeacherConfig(per_call=4, examples_per_call=3, waves=3)


def order(wanted: int, task: TaskType = MATH, part: Part = Part.HARD, shown: int = 5) -> Order:
    rows = tuple(Candidate(example(f"{task} {part} example {n}"), task, 3.0, part) for n in range(shown))
    return Order(task, part, wanted, rows)


def right(examples: Sequence[Example]) -> list[Label]:
    """Labels every instruction by the type that it begins with, and nothing where it begins with a ?."""
    names = [None if e.instruction.startswith("?") else TaskType(e.instruction.partition(":")[0]) for e in examples]
    return [Label(id=e.id, task=name, raw="") for e, name in zip(examples, names, strict=True)]


class Writer:
    """A teacher that writes so many new pairs a call, whatever it is asked for, and remembers each commission."""

    def __init__(self, per_call: int | None = None) -> None:
        self.waves: list[list[Commission]] = []
        self.per_call = per_call
        self.numbers: Iterator[int] = count()

    def __call__(self, asked: Sequence[Commission]) -> list[tuple[Pair, ...]]:
        self.waves.append(list(asked))
        return [self.write(commission) for commission in asked]

    def write(self, commission: Commission) -> tuple[Pair, ...]:
        pairs = commission.count if self.per_call is None else self.per_call
        return tuple(Pair(f"{commission.task}: {next(self.numbers)}", "done") for _ in range(pairs))


def said(*waves: Sequence[str]) -> Expand:
    """A teacher that writes these instructions, one call and one wave after another."""
    replies = iter(waves)
    return lambda asked: [tuple(Pair(text, "done") for text in next(replies)) for _ in asked]


def grown(
    orders: Sequence[Order],
    expand: Expand,
    classify: Classify = right,
    seen: Sequence[str] = (),
    seed: int = 7,
    born: int = 2,
) -> Growth:
    return grow(orders, Novelty(1.0, seen), CONFIG, seed, born, expand, classify)


def instructions(growth: Growth) -> list[str]:
    return [row.instruction for row in growth.rows]


def test_an_order_is_filled_to_the_row() -> None:
    growth = grown([order(10), order(3, LAW, Part.REST)], Writer())
    assert [(row.task, row.part) for row in growth.rows] == [(MATH, Part.HARD)] * 10 + [(LAW, Part.REST)] * 3


def test_a_row_says_where_it_came_from() -> None:
    wanted = order(2)
    (row, _) = grown([wanted], Writer()).rows
    assert (row.id, row.instruction, row.response) == (example_id("Math: 0"), "Math: 0", "done")
    assert (row.origin, row.born, row.gap) == (Origin.EXPANSION, 2, None)
    assert row.parents == tuple(candidate.example.id for candidate in wanted.examples[:3])


def test_more_than_ordered_is_surplus() -> None:
    growth = grown([order(3)], Writer(per_call=7))
    assert instructions(growth) == ["Math: 0", "Math: 1", "Math: 2"]
    assert growth.tally == {"calls": 1, "proposed": 7, "repeated": 0, "surplus": 4}


def test_what_was_seen_is_not_kept() -> None:
    growth = grown([order(2)], said(["Math: old", "Math: new", "Math: new"], [], []), seen=["Math: old"])
    assert instructions(growth) == ["Math: new"]
    assert growth.tally["repeated"] == 2


def test_a_repeat_is_not_kept_for_another_order_either() -> None:
    orders = [order(1), order(1, part=Part.REST)]
    growth = grown(orders, said(["Math: one"], ["Math: one"], ["Math: two"]))
    assert [(row.instruction, row.part) for row in growth.rows] == [("Math: one", "hard"), ("Math: two", "rest")]


def test_only_the_ordered_type_is_kept() -> None:
    growth = grown([order(3)], said(["Law: a", "Math: b", "? unlabelled"], ["Math: c"], ["Law: d"]))
    assert instructions(growth) == ["Math: b", "Math: c"]
    assert (growth.tally["off_type"], growth.tally["unlabelled"]) == (2, 1)


def test_a_row_of_another_type_does_not_fill_the_order_of_that_type() -> None:
    growth = grown([order(1), order(1, LAW)], said(["Law: a"], ["Math: b"], [], [], [], []))
    assert instructions(growth) == []


def test_later_waves_ask_only_for_what_lacks() -> None:
    writer = Writer(per_call=3)
    growth = grown([order(8), order(3, LAW)], writer)
    asked = [[(commission.task, commission.count) for commission in wave] for wave in writer.waves]
    assert asked == [[(MATH, 4), (MATH, 4), (LAW, 3)], [(MATH, 2)]]
    assert growth.tally["calls"] == 4
    assert len(growth.rows) == 11


def test_a_later_wave_is_a_draw_of_its_own() -> None:
    writer = Writer(per_call=0)
    grown([order(9, shown=0)], writer)
    asked = [commission for wave in writer.waves for commission in wave]
    assert len(set(asked)) == len(asked) == 9


def test_the_last_wave_leaves_an_order_unfilled() -> None:
    growth = grown([order(10)], Writer(per_call=1))
    assert len(growth.rows) == 3 + 2 + 2  # 3 calls for 10, 2 for 7, 2 for 5
    assert growth.tally["calls"] == 7


def test_a_failed_call_is_asked_again_in_the_next_wave() -> None:
    growth = grown([order(2)], said([], ["Math: a", "Math: b"]))
    assert instructions(growth) == ["Math: a", "Math: b"]


def test_nothing_ordered_is_nothing_asked() -> None:
    writer = Writer()
    growth = grown([], writer)
    assert (writer.waves, growth.rows, growth.tally) == ([], [], {})


def test_every_call_is_shown_the_next_examples_in_turn() -> None:
    wanted = order(9, shown=5)
    shown = [[wanted.examples.index(c) for c in wanted.examples if c.example in commission.examples]
             for commission in commissions_of(wanted, 9, CONFIG, wave=0, occasion="one")]  # fmt: skip
    assert shown == [[0, 1, 2], [0, 3, 4], [1, 2, 3]]
    assert commissions_of(wanted, 9, CONFIG, wave=1, occasion="one")[0].examples == tuple(
        candidate.example for candidate in wanted.examples[3:] + wanted.examples[:1]
    )


@pytest.mark.parametrize("at_hand", [0, 1, 2])
def test_no_example_is_shown_twice_in_a_call(at_hand: int) -> None:
    for commission in commissions_of(order(9, shown=at_hand), 9, CONFIG, wave=0, occasion="one"):
        assert len({e.id for e in commission.examples}) == len(commission.examples) == at_hand


@given(lacking=st.integers(0, 40), at_hand=st.integers(0, 7))
def test_the_calls_of_an_order_ask_for_just_what_lacks_and_are_told_apart(lacking: int, at_hand: int) -> None:
    wanted = order(lacking, shown=at_hand)
    calls = [call for wave in range(3) for call in commissions_of(wanted, lacking, CONFIG, wave, f"{wave}")]
    assert sum(call.count for call in calls) == 3 * lacking
    assert all(1 <= call.count <= CONFIG.per_call for call in calls)
    assert len({call.sample for call in calls}) == len(calls)


@pytest.mark.parametrize("shown", [0, 5])
def test_two_orders_of_one_type_and_the_same_examples_are_different_draws(shown: int) -> None:
    hard = order(4, shown=shown)
    rest = Order(hard.task, Part.REST, 4, hard.examples)
    writer = Writer()
    grown([hard, rest], writer)
    assert len(set(writer.waves[0])) == 2


@pytest.mark.parametrize("shown", [0, 3])
def test_orders_waves_rounds_seeds_and_calls_that_show_the_same_are_different_draws(shown: int) -> None:
    asked: list[Commission] = []
    for seed, born in product((0, 1, 11), (1, 2, 11, 12)):
        writer = Writer(per_call=0)
        grown([order(8, shown=shown), order(8, shown=shown)], writer, seed=seed, born=born)
        asked += [commission for wave in writer.waves for commission in wave]
    assert len({commission.examples for commission in asked}) <= 3  # the same three, from another one on
    assert len({commission.sample for commission in asked}) == len(asked) == 3 * 4 * 3 * 2 * 2


def test_the_same_orders_are_the_same_draws_every_time() -> None:
    writers = Writer(per_call=0), Writer(per_call=0)
    for writer in writers:
        grown([order(9), order(3, LAW)], writer)
    assert writers[0].waves == writers[1].waves


def test_a_draw_has_the_same_number_in_every_process() -> None:
    assert sample_of("7 2 0 1", 3) == int(sha256(b"7 2 0 1 3").hexdigest()[:12], 16)
    assert all(0 <= sample_of(f"{n}", n) < 2**48 for n in range(200))


@given(wanted=st.lists(st.integers(1, 9), min_size=1, max_size=3), words=st.integers(0, 9999))
def test_every_proposal_is_kept_repeated_unlabelled_off_type_or_surplus(wanted: list[int], words: int) -> None:
    rng, every = Random(words), [f"{kind}: {n}" for kind in ("Math", "Law", "?") for n in range(9)]
    texts = [rng.choices(every, k=rng.randrange(7)) for _ in range(40)]
    orders = [
        order(rows, task, part) for rows, task, part in zip(wanted, (MATH, LAW, MATH), (*Part, Part.REST), strict=False)
    ]
    growth = grown(orders, said(*texts), seen=["Math: 0", "Law: 0"])
    tally = growth.tally
    kept = len(growth.rows)
    lost = ("repeated", "unlabelled", "off_type", "surplus")
    assert tally["proposed"] == kept + sum(tally[reason] for reason in lost)
    assert set(tally) <= {"calls", "proposed", *lost}
    assert all(len(growth.kept[one]) <= one.count for one in orders)
    assert all(row.instruction.startswith(f"{row.task}: ") for row in growth.rows)
    assert len(set(instructions(growth))) == kept
    assert not {"Math: 0", "Law: 0"} & set(instructions(growth))
