"""Orders are filled with what is new and of the ordered type, never beyond, and every proposal is accounted for."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, product
from random import Random

import pytest
from fakes import example
from hypothesis import given
from hypothesis import strategies as st

from tapir_exp.config import DecontaminationConfig, TeacherConfig
from tapir_exp.core.records import DroppedRow, DropReason, Example, Label, Origin, Subset, example_id
from tapir_exp.core.task_types import TaskType
from tapir_exp.core.text import split_words
from tapir_exp.data.decontamination import BenchmarkQuestion, Benchmarks
from tapir_exp.data.novelty import Novelty
from tapir_exp.distillation.curriculum.sampling import Candidate, GenerationRequest
from tapir_exp.distillation.expansion import (
    AcceptanceFilters,
    Classify,
    Expand,
    ExpansionResult,
    Rate,
    expand_until_filled,
    split_into_calls,
)
from tapir_exp.distillation.teacher import ExpansionRequest, InstructionPair

MATH, LAW = TaskType.MATH, TaskType.LAW
CONFIG = TeacherConfig(num_output_samples=4, num_in_context_samples=3, max_expansion_passes=3)


def order(wanted: int, task: TaskType = MATH, subset: Subset = Subset.HARD, shown: int = 5) -> GenerationRequest:
    rows = tuple(Candidate(example(f"{task} {subset} example {n}"), task, 3.0, subset) for n in range(shown))
    return GenerationRequest(task, subset, wanted, rows)


def right(examples: Sequence[Example]) -> list[Label]:
    """Labels every instruction by the type that it begins with, and nothing where it begins with a ?."""
    names = [None if e.instruction.startswith("?") else TaskType(e.instruction.partition(":")[0]) for e in examples]
    return [Label(id=e.id, task=name, raw="") for e, name in zip(examples, names, strict=True)]


class Writer:
    """A teacher that writes so many new pairs a call, whatever it is asked for, and remembers each commission."""

    def __init__(self, num_output_samples: int | None = None) -> None:
        self.waves: list[list[ExpansionRequest]] = []
        self.num_output_samples = num_output_samples
        self.numbers: Iterator[int] = count()

    def __call__(self, asked: Sequence[ExpansionRequest]) -> list[tuple[InstructionPair, ...]]:
        self.waves.append(list(asked))
        return [self.write(commission) for commission in asked]

    def write(self, commission: ExpansionRequest) -> tuple[InstructionPair, ...]:
        pairs = commission.count if self.num_output_samples is None else self.num_output_samples
        return tuple(InstructionPair(f"{commission.task}: {next(self.numbers)}", "done") for _ in range(pairs))


def said(*waves: Sequence[str]) -> Expand:
    """A teacher that writes these instructions, one call and one wave after another."""
    replies = iter(waves)
    return lambda asked: [tuple(InstructionPair(text, "done") for text in next(replies)) for _ in asked]


def never(examples: Sequence[Example]) -> list[float | None]:
    raise AssertionError("nobody asked for ratings")


def grown(
    orders: Sequence[GenerationRequest],
    expand: Expand,
    classify: Classify = right,
    seen: Sequence[str] = (),
    seed: int = 7,
    created_in_round: int = 2,
    questions: Sequence[str] = (),
    rate: Rate = never,
    max_complexity_gap: float | None = None,
) -> ExpansionResult:
    asked = [BenchmarkQuestion("ws", row, tuple(split_words(text))) for row, text in enumerate(questions, 1)]
    gate = AcceptanceFilters(Novelty(1.0, seen), Benchmarks(asked, DecontaminationConfig()), classify, rate)
    return expand_until_filled(
        orders, gate, replace(CONFIG, max_complexity_gap=max_complexity_gap), seed, created_in_round, expand
    )


def dropped(growth: ExpansionResult) -> dict[str, list[str]]:
    """The texts left out, by reason."""
    texts: dict[str, list[str]] = {}
    for one in growth.dropped:
        texts.setdefault(one.reason, []).append(one.instruction or "")
    return texts


def instructions(growth: ExpansionResult) -> list[str]:
    return [row.instruction for row in growth.rows]


def test_an_order_is_filled_to_the_row() -> None:
    growth = grown([order(10), order(3, LAW, Subset.REST)], Writer())
    assert [(row.task, row.subset) for row in growth.rows] == [(MATH, Subset.HARD)] * 10 + [(LAW, Subset.REST)] * 3


def test_a_row_says_where_it_came_from() -> None:
    wanted = order(2)
    (row, _) = grown([wanted], Writer()).rows
    assert (row.id, row.instruction, row.response) == (example_id("Math: 0"), "Math: 0", "done")
    assert (row.origin, row.created_in_round, row.difficulty) == (Origin.EXPANSION, 2, None)
    assert row.parents == tuple(candidate.example.id for candidate in wanted.examples[:3])


def test_more_than_ordered_is_surplus() -> None:
    growth = grown([order(3)], Writer(num_output_samples=7))
    assert instructions(growth) == ["Math: 0", "Math: 1", "Math: 2"]
    assert (growth.calls, growth.proposed) == (1, 7)
    assert dropped(growth) == {"surplus": ["Math: 3", "Math: 4", "Math: 5", "Math: 6"]}


def test_what_was_seen_is_not_kept() -> None:
    growth = grown([order(2)], said(["Math: old", "Math: new", "Math: new"], [], []), seen=["Math: old"])
    assert instructions(growth) == ["Math: new"]
    assert dropped(growth) == {"repeated": ["Math: old", "Math: new"]}


def test_a_repeat_is_not_kept_for_another_order_either() -> None:
    orders = [order(1), order(1, subset=Subset.REST)]
    growth = grown(orders, said(["Math: one"], ["Math: one"], ["Math: two"]))
    assert [(row.instruction, row.subset) for row in growth.rows] == [("Math: one", "hard"), ("Math: two", "rest")]


def test_only_the_ordered_type_is_kept() -> None:
    growth = grown([order(3)], said(["Law: a", "Math: b", "? unlabelled"], ["Math: c"], ["Law: d"]))
    assert instructions(growth) == ["Math: b", "Math: c"]
    assert dropped(growth) == {"off type": ["Law: a", "Law: d"], "unlabelled": ["? unlabelled"]}
    assert [one.detail for one in growth.dropped] == ["Law instead of Math", "no label", "Law instead of Math"]


def test_a_row_of_another_type_does_not_fill_the_order_of_that_type() -> None:
    growth = grown([order(1), order(1, LAW)], said(["Law: a"], ["Math: b"], [], [], [], []))
    assert instructions(growth) == []


def test_later_waves_ask_only_for_what_lacks() -> None:
    writer = Writer(num_output_samples=3)
    growth = grown([order(8), order(3, LAW)], writer)
    asked = [[(commission.task, commission.count) for commission in wave] for wave in writer.waves]
    assert asked == [[(MATH, 4), (MATH, 4), (LAW, 3)], [(MATH, 2)]]
    assert growth.calls == 4
    assert len(growth.rows) == 11


def test_a_later_wave_is_a_draw_of_its_own() -> None:
    writer = Writer(num_output_samples=0)
    grown([order(9, shown=0)], writer)
    asked = [commission for wave in writer.waves for commission in wave]
    assert len(set(asked)) == len(asked) == 9


def test_the_last_wave_leaves_an_order_unfilled() -> None:
    growth = grown([order(10)], Writer(num_output_samples=1))
    assert len(growth.rows) == 3 + 2 + 2  # 3 calls for 10, 2 for 7, 2 for 5
    assert growth.calls == 7


def test_a_failed_call_is_asked_again_in_the_next_wave() -> None:
    growth = grown([order(2)], said([], ["Math: a", "Math: b"]))
    assert instructions(growth) == ["Math: a", "Math: b"]


def test_nothing_ordered_is_nothing_asked() -> None:
    writer = Writer()
    growth = grown([], writer)
    assert (writer.waves, growth.rows, growth.dropped) == ([], [], [])
    assert (growth.figures["kept_per_call"], growth.figures["off_type_share"]) == (None, None)


def test_every_call_is_shown_the_next_examples_in_turn() -> None:
    wanted = order(9, shown=5)
    shown = [[wanted.examples.index(c) for c in wanted.examples if c.example in commission.examples]
             for commission in split_into_calls(wanted, 9, CONFIG, wave=0, occasion="one")]  # fmt: skip
    assert shown == [[0, 1, 2], [0, 3, 4], [1, 2, 3]]
    assert split_into_calls(wanted, 9, CONFIG, wave=1, occasion="one")[0].examples == tuple(
        candidate.example for candidate in wanted.examples[3:] + wanted.examples[:1]
    )


@pytest.mark.parametrize("at_hand", [0, 1, 2])
def test_no_example_is_shown_twice_in_a_call(at_hand: int) -> None:
    for commission in split_into_calls(order(9, shown=at_hand), 9, CONFIG, wave=0, occasion="one"):
        assert len({e.id for e in commission.examples}) == len(commission.examples) == at_hand


@given(lacking=st.integers(0, 40), at_hand=st.integers(0, 7))
def test_the_calls_of_an_order_ask_for_just_what_lacks_and_are_told_apart(lacking: int, at_hand: int) -> None:
    wanted = order(lacking, shown=at_hand)
    calls = [call for wave in range(3) for call in split_into_calls(wanted, lacking, CONFIG, wave, f"{wave}")]
    assert sum(call.count for call in calls) == 3 * lacking
    assert all(1 <= call.count <= CONFIG.num_output_samples for call in calls)
    assert len({call.sample for call in calls}) == len(calls)


@pytest.mark.parametrize("shown", [0, 5])
def test_two_orders_of_one_type_and_the_same_examples_are_different_draws(shown: int) -> None:
    hard = order(4, shown=shown)
    rest = GenerationRequest(hard.task, Subset.REST, 4, hard.examples)
    writer = Writer()
    grown([hard, rest], writer)
    assert len(set(writer.waves[0])) == 2


@pytest.mark.parametrize("shown", [0, 3])
def test_orders_waves_rounds_seeds_and_calls_that_show_the_same_are_different_draws(shown: int) -> None:
    asked: list[ExpansionRequest] = []
    for seed, born in product((0, 1, 11), (1, 2, 11, 12)):
        writer = Writer(num_output_samples=0)
        grown([order(8, shown=shown), order(8, shown=shown)], writer, seed=seed, created_in_round=born)
        asked += [commission for wave in writer.waves for commission in wave]
    assert len({commission.examples for commission in asked}) <= 3  # the same three, from another one on
    assert len({commission.sample for commission in asked}) == len(asked) == 3 * 4 * 3 * 2 * 2


def test_the_same_orders_are_the_same_draws_every_time() -> None:
    writers = Writer(num_output_samples=0), Writer(num_output_samples=0)
    for writer in writers:
        grown([order(9), order(3, LAW)], writer)
    assert writers[0].waves == writers[1].waves


@given(wanted=st.lists(st.integers(1, 9), min_size=1, max_size=3), words=st.integers(0, 9999))
def test_every_proposal_is_kept_repeated_unlabelled_off_type_or_surplus(wanted: list[int], words: int) -> None:
    rng, every = Random(words), [f"{kind}: {n}" for kind in ("Math", "Law", "?") for n in range(9)]
    texts = [rng.choices(every, k=rng.randrange(7)) for _ in range(40)]
    orders = [
        order(rows, task, part)
        for rows, task, part in zip(wanted, (MATH, LAW, MATH), (*Subset, Subset.REST), strict=False)
    ]
    growth = grown(orders, said(*texts), seen=["Math: 0", "Law: 0"])
    kept = len(growth.rows)
    assert growth.proposed == kept + len(growth.dropped)
    assert {one.reason for one in growth.dropped} <= {
        DropReason.REPEATED,
        DropReason.UNLABELLED,
        DropReason.OFF_TYPE,
        DropReason.SURPLUS,
    }
    assert len({one.row for one in growth.dropped}) == len(growth.dropped)
    assert all(1 <= one.row <= growth.proposed for one in growth.dropped)
    assert all(len(growth.kept[one]) <= one.count for one in orders)
    assert all(row.instruction.startswith(f"{row.task}: ") for row in growth.rows)
    assert len(set(instructions(growth))) == kept
    assert not {"Math: 0", "Law: 0"} & set(instructions(growth))


def test_a_leak_planted_by_the_teacher_is_not_kept_and_its_words_are_shown() -> None:
    question = "Math: how many apples has Ann if Ben gives her three of his seven apples?"
    growth = grown([order(2)], said([question, "Math: clean"], [], []), questions=[question])
    assert instructions(growth) == ["Math: clean"]
    assert growth.figures["contaminated"] == 1
    words = "math how many apples has ann if ben gives her three of his seven apples"
    assert growth.dropped == [
        DroppedRow(
            source="round 2",
            row=1,
            reason=DropReason.CONTAMINATED,
            detail=f"100% of ws, row 1: {words}",
            instruction=question,
        )
    ]


def test_a_leak_in_the_response_is_one_too() -> None:
    question = "how many apples has Ann if Ben gives her three of his seven apples?"
    growth = grown([order(1)], lambda asked: [(InstructionPair("Math: ask me", question),)], questions=[question])
    assert instructions(growth) == []


def test_what_is_refused_early_is_not_labelled_nor_rated() -> None:
    labelled: list[str] = []
    rated: list[str] = []

    def classify(examples: Sequence[Example]) -> list[Label]:
        labelled.extend(example.instruction for example in examples)
        return right(examples)

    def rate(examples: Sequence[Example]) -> list[float | None]:
        rated.extend(example.instruction for example in examples)
        return [5.0] * len(examples)

    wanted = order(1, shown=1)
    written = said(["Math: old", "Math: one two three four five", "Law: a", "Math: b"])
    grown([wanted], written, classify, ["Math: old"], questions=["one two three four five"], rate=rate,
          max_complexity_gap=1)  # fmt: skip
    assert labelled == ["Law: a", "Math: b"]
    assert rated == ["Math: b", wanted.examples[0].example.instruction]


def test_only_what_is_about_as_complex_as_its_examples_is_kept() -> None:
    ratings = {"Math: 1": 3.0, "Math: 2": 4.0, "Math: 3": 6.0, "Math: 4": 6.1, "Math: 5": 1.9, "Math: 6": None}

    def rate(examples: Sequence[Example]) -> list[float | None]:
        assert len({example.id for example in examples}) == len(examples)
        return [ratings.get(example.instruction, 4.0) for example in examples]

    growth = grown([order(9)], said(list(ratings), *[[]] * 9), rate=rate, max_complexity_gap=2)
    assert instructions(growth) == ["Math: 1", "Math: 2", "Math: 3"]
    assert dropped(growth) == {"unlike": ["Math: 4", "Math: 5"], "unrated": ["Math: 6"]}
    assert growth.dropped[0].detail == "complexity 6.1, its examples 4.0"


def test_examples_that_nobody_rated_cannot_be_compared_with() -> None:
    def rate(examples: Sequence[Example]) -> list[float | None]:
        return [None if "example" in example.instruction else 4.0 for example in examples]

    assert dropped(grown([order(1)], said(["Math: a"], [], []), rate=rate, max_complexity_gap=9)) == {
        "unrated": ["Math: a"]
    }


def test_without_examples_there_is_nothing_to_be_like() -> None:
    growth = grown([order(2, shown=0)], Writer(), max_complexity_gap=0)
    assert len(growth.rows) == 2


def test_the_figures_add_up_and_say_what_a_call_brought() -> None:
    growth = grown([order(3)], said(["Law: a", "Math: b", "? c"], ["Math: d", "Math: b", "Math: e", "Math: f"]))
    assert growth.figures == {
        "ordered": 3,
        "calls": 2,
        "proposed": 7,
        "repeated": 1,
        "contaminated": None,
        "unlabelled": 1,
        "off_type": 1,
        "unrated": 0,
        "unlike": 0,
        "surplus": 1,
        "kept_per_call": 1.5,
        "off_type_share": 1 / 5,
    }
