"""Requests are filled with new rows of the requested type, never beyond, and every pair is accounted for."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import count as count_up
from itertools import product
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
from tapir_exp.distillation.curriculum.sampling import MOST_PAIRS, Candidate, GenerationRequest
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


def request(count: int, task: TaskType = MATH, subset: Subset = Subset.HARD, shown: int = 5) -> GenerationRequest:
    rows = tuple(Candidate(example(f"{task} {subset} example {n}"), task, 3.0, subset) for n in range(shown))
    return GenerationRequest(task, subset, count, rows)


def classify_by_prefix(examples: Sequence[Example]) -> list[Label]:
    """Label every instruction by the type that it begins with; fail on one that begins with a `?`."""
    names = [None if e.instruction.startswith("?") else TaskType(e.instruction.partition(":")[0]) for e in examples]
    return [Label(id=e.id, task=name, raw="") for e, name in zip(examples, names, strict=True)]


class Writer:
    """A teacher that writes a fixed number of new pairs a call, or as many as requested, and records each call."""

    def __init__(self, num_output_samples: int | None = None) -> None:
        self.passes: list[list[ExpansionRequest]] = []
        self.num_output_samples = num_output_samples
        self.numbers: Iterator[int] = count_up()

    def __call__(self, calls: Sequence[ExpansionRequest]) -> list[tuple[InstructionPair, ...]]:
        self.passes.append(list(calls))
        return [self.write(call) for call in calls]

    @property
    def all_calls(self) -> list[ExpansionRequest]:
        return [call for calls in self.passes for call in calls]

    def write(self, call: ExpansionRequest) -> tuple[InstructionPair, ...]:
        pairs = call.count if self.num_output_samples is None else self.num_output_samples
        return tuple(InstructionPair(f"{call.task}: {next(self.numbers)}", "done") for _ in range(pairs))


def scripted(*replies: Sequence[str]) -> Expand:
    """Return a teacher that writes these instructions, one call after another."""
    remaining = iter(replies)
    return lambda calls: [tuple(InstructionPair(text, "done") for text in next(remaining)) for _ in calls]


def rate_never(examples: Sequence[Example]) -> list[float | None]:
    raise AssertionError("ratings were not requested")


def expanded(
    requests: Sequence[GenerationRequest],
    expand: Expand,
    classify: Classify = classify_by_prefix,
    seen: Sequence[str] = (),
    seed: int = 7,
    round_number: int = 2,
    questions: Sequence[str] = (),
    rate: Rate = rate_never,
    max_complexity_gap: float | None = None,
) -> ExpansionResult:
    leaks = [BenchmarkQuestion("ws", row, tuple(split_words(text))) for row, text in enumerate(questions, 1)]
    benchmarks = Benchmarks(leaks, DecontaminationConfig())
    filters = AcceptanceFilters(Novelty(1.0, seen), benchmarks, classify, rate, max_complexity_gap)
    return expand_until_filled(requests, filters, CONFIG, seed, round_number, expand)


def dropped(result: ExpansionResult) -> dict[str, list[str]]:
    """Return the dropped texts by reason."""
    texts: dict[str, list[str]] = {}
    for row in result.dropped:
        texts.setdefault(row.reason, []).append(row.instruction or "")
    return texts


def instructions(result: ExpansionResult) -> list[str]:
    return [row.instruction for row in result.rows]


def test_expand_fills_a_request_to_the_row() -> None:
    result = expanded([request(10), request(3, LAW, Subset.REST)], Writer())
    assert [(row.task, row.subset) for row in result.rows] == [(MATH, Subset.HARD)] * 10 + [(LAW, Subset.REST)] * 3


def test_expand_records_the_origin_of_a_row() -> None:
    missing = request(2)
    (row, _) = expanded([missing], Writer()).rows
    assert (row.id, row.instruction, row.response) == (example_id("Math: 0"), "Math: 0", "done")
    assert (row.origin, row.created_in_round, row.difficulty) == (Origin.EXPANSION, 2, None)
    assert row.parents == tuple(candidate.example.id for candidate in missing.examples[:3])


def test_expand_drops_rows_over_quota() -> None:
    result = expanded([request(3)], Writer(num_output_samples=7))
    assert instructions(result) == ["Math: 0", "Math: 1", "Math: 2"]
    assert (result.calls, result.proposed) == (1, 7)
    assert dropped(result) == {"surplus": ["Math: 3", "Math: 4", "Math: 5", "Math: 6"]}


def test_expand_drops_repeats() -> None:
    result = expanded([request(2)], scripted(["Math: old", "Math: new", "Math: new"], [], []), seen=["Math: old"])
    assert instructions(result) == ["Math: new"]
    assert dropped(result) == {"repeated": ["Math: old", "Math: new"]}


def test_expand_drops_a_repeat_from_another_request() -> None:
    requests = [request(1), request(1, subset=Subset.REST)]
    result = expanded(requests, scripted(["Math: one"], ["Math: one"], ["Math: two"]))
    assert [(row.instruction, row.subset) for row in result.rows] == [("Math: one", "hard"), ("Math: two", "rest")]


def test_expand_accepts_only_the_requested_type() -> None:
    result = expanded([request(3)], scripted(["Law: a", "Math: b", "? unlabelled"], ["Math: c"], ["Law: d"]))
    assert instructions(result) == ["Math: b", "Math: c"]
    assert dropped(result) == {"off type": ["Law: a", "Law: d"], "unlabelled": ["? unlabelled"]}
    assert [row.detail for row in result.dropped] == ["Law instead of Math", "no label", "Law instead of Math"]


def test_expand_does_not_move_a_row_to_another_request() -> None:
    result = expanded([request(1), request(1, LAW)], scripted(["Law: a"], ["Math: b"], [], [], [], []))
    assert instructions(result) == []


def test_expand_requests_only_missing_rows_in_later_passes() -> None:
    writer = Writer(num_output_samples=3)
    result = expanded([request(8), request(3, LAW)], writer)
    counts = [[(call.task, call.count) for call in calls] for calls in writer.passes]
    assert counts == [[(MATH, 4), (MATH, 4), (LAW, 3)], [(MATH, 2)]]
    assert result.calls == 4
    assert len(result.rows) == 11


def test_expand_draws_anew_in_each_pass() -> None:
    writer = Writer(num_output_samples=0)
    expanded([request(9, shown=0)], writer)
    calls = writer.all_calls
    assert len(set(calls)) == len(calls) == 9


def test_expand_stops_after_the_last_pass() -> None:
    result = expanded([request(10)], Writer(num_output_samples=1))
    assert len(result.rows) == 3 + 2 + 2  # 3 calls for 10, 2 for 7, 2 for 5
    assert result.calls == 7


def test_expand_repeats_a_failed_call_in_the_next_pass() -> None:
    result = expanded([request(2)], scripted([], ["Math: a", "Math: b"]))
    assert instructions(result) == ["Math: a", "Math: b"]


def test_expand_without_requests_makes_no_call() -> None:
    writer = Writer()
    result = expanded([], writer)
    assert (writer.passes, result.rows, result.dropped) == ([], [], [])
    assert (result.figures["kept_per_call"], result.figures["off_type_share"]) == (None, None)


def test_split_shows_the_examples_in_turn() -> None:
    missing = request(9, shown=5)
    calls = split_into_calls(missing, 9, CONFIG, pass_number=0, draw_key="one")
    shown = [[n for n, row in enumerate(missing.examples) if row.example in call.examples] for call in calls]
    assert shown == [[0, 1, 2], [0, 3, 4], [1, 2, 3]]
    assert split_into_calls(missing, 9, CONFIG, pass_number=1, draw_key="one")[0].examples == tuple(
        candidate.example for candidate in missing.examples[3:] + missing.examples[:1]
    )


@pytest.mark.parametrize("available", [0, 1, 2])
def test_split_shows_no_example_twice_in_a_call(available: int) -> None:
    for call in split_into_calls(request(9, shown=available), 9, CONFIG, pass_number=0, draw_key="one"):
        assert len({row.id for row in call.examples}) == len(call.examples) == available


@given(lacking=st.integers(0, 40), available=st.integers(0, 7))
def test_split_requests_exactly_the_missing_rows(lacking: int, available: int) -> None:
    missing = request(lacking, shown=available)
    calls = [call for number in range(3) for call in split_into_calls(missing, lacking, CONFIG, number, f"{number}")]
    assert sum(call.count for call in calls) == 3 * lacking
    assert all(1 <= call.count <= CONFIG.num_output_samples for call in calls)
    assert len({call.sample for call in calls}) == len(calls)


@pytest.mark.parametrize("shown", [0, 5])
def test_expand_draws_anew_for_each_request(shown: int) -> None:
    hard = request(4, shown=shown)
    rest = GenerationRequest(hard.task, Subset.REST, 4, hard.examples)
    writer = Writer()
    expanded([hard, rest], writer)
    assert len(set(writer.passes[0])) == 2


@pytest.mark.parametrize("shown", [0, 3])
def test_expand_draws_differ_by_seed_round_request_and_pass(shown: int) -> None:
    calls: list[ExpansionRequest] = []
    for seed, round_number in product((0, 1, 11), (1, 2, 11, 12)):
        writer = Writer(num_output_samples=0)
        expanded([request(8, shown=shown), request(8, shown=shown)], writer, seed=seed, round_number=round_number)
        calls += writer.all_calls
    assert len({call.examples for call in calls}) <= 3  # the same three examples, rotated
    assert len({call.sample for call in calls}) == len(calls) == 3 * 4 * 3 * 2 * 2


def test_expand_draws_are_reproducible() -> None:
    writers = Writer(num_output_samples=0), Writer(num_output_samples=0)
    for writer in writers:
        expanded([request(9), request(3, LAW)], writer)
    assert writers[0].passes == writers[1].passes


@pytest.mark.parametrize(("pass_number", "number"), [(0, 0), (1, 1)])
def test_expand_draw_has_a_fixed_number(pass_number: int, number: int) -> None:
    """The number comes from seed, round, pass, request and call; a change would draw other expansions."""
    writer = Writer(num_output_samples=0)
    expanded([request(1), request(8)], writer)
    calls = [call for call in writer.passes[pass_number] if call.count == 4]
    digest = sha256(f"7 2 {pass_number} 1 {number}".encode()).hexdigest()
    assert calls[number].sample == int(digest[:12], 16)


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=3), words=st.integers(0, 9999))
def test_expand_accounts_for_every_pair(counts: list[int], words: int) -> None:
    rng, every = Random(words), [f"{kind}: {n}" for kind in ("Math", "Law", "?") for n in range(9)]
    texts = [rng.choices(every, k=rng.randrange(7)) for _ in range(40)]
    kinds = zip(counts, (MATH, LAW, MATH), (*Subset, Subset.REST), strict=False)
    requests = [request(rows, task, subset) for rows, task, subset in kinds]
    result = expanded(requests, scripted(*texts), seen=["Math: 0", "Law: 0"])
    accepted = len(result.rows)
    assert result.proposed == accepted + len(result.dropped)
    assert {row.reason for row in result.dropped} <= {
        DropReason.REPEATED,
        DropReason.UNLABELLED,
        DropReason.OFF_TYPE,
        DropReason.OVER_QUOTA,
    }
    assert len({row.row for row in result.dropped}) == len(result.dropped)
    assert all(1 <= row.row <= result.proposed for row in result.dropped)
    assert all(len(result.accepted[missing]) <= missing.count for missing in requests)
    assert all(row.instruction.startswith(f"{row.task}: ") for row in result.rows)
    assert len(set(instructions(result))) == accepted
    assert not {"Math: 0", "Law: 0"} & set(instructions(result))


def test_expand_drops_a_benchmark_leak_with_its_words() -> None:
    question = "Math: how many apples has Ann if Ben gives her three of his seven apples?"
    result = expanded([request(2)], scripted([question, "Math: clean"], [], []), questions=[question])
    assert instructions(result) == ["Math: clean"]
    assert result.figures["contaminated"] == 1
    words = "math how many apples has ann if ben gives her three of his seven apples"
    assert result.dropped == [
        DroppedRow(
            source="round 2",
            row=1,
            reason=DropReason.CONTAMINATED,
            detail=f"100% of ws, row 1: {words}",
            instruction=question,
        )
    ]


def test_expand_drops_a_leak_in_the_response() -> None:
    question = "how many apples has Ann if Ben gives her three of his seven apples?"
    result = expanded([request(1)], lambda calls: [(InstructionPair("Math: ask me", question),)], questions=[question])
    assert instructions(result) == []


def test_filters_classify_and_rate_only_what_passed_before() -> None:
    labelled: list[str] = []
    rated: list[str] = []

    def classify(examples: Sequence[Example]) -> list[Label]:
        labelled.extend(example.instruction for example in examples)
        return classify_by_prefix(examples)

    def rate(examples: Sequence[Example]) -> list[float | None]:
        rated.extend(example.instruction for example in examples)
        return [5.0] * len(examples)

    missing = request(1, shown=1)
    teacher = scripted(["Math: old", "Math: one two three four five", "Law: a", "Math: b"])
    questions = ["one two three four five"]
    expanded([missing], teacher, classify, ["Math: old"], questions=questions, rate=rate, max_complexity_gap=1)
    assert labelled == ["Law: a", "Math: b"]
    assert rated == ["Math: b", missing.examples[0].example.instruction]


def test_filters_accept_a_pair_if_an_abstention_leans_to_its_type() -> None:
    def abstain(examples: Sequence[Example]) -> list[Label]:
        return [
            Label(id=e.id, task=None, raw=e.instruction.partition(":")[0], failure="abstained", confidence=0.3)
            for e in examples
        ]

    result = expanded([request(2)], scripted(["Math: a", "Law: b"], *[[]] * 9), abstain)
    assert instructions(result) == ["Math: a"]
    assert dropped(result) == {DropReason.OFF_TYPE: ["Law: b"]}


def test_filters_drop_a_pair_of_another_complexity() -> None:
    ratings = {"Math: 1": 3.0, "Math: 2": 4.0, "Math: 3": 6.0, "Math: 4": 6.1, "Math: 5": 1.9, "Math: 6": None}

    def rate(examples: Sequence[Example]) -> list[float | None]:
        assert len({example.id for example in examples}) == len(examples)
        return [ratings.get(example.instruction, 4.0) for example in examples]

    result = expanded([request(9)], scripted(list(ratings), *[[]] * 9), rate=rate, max_complexity_gap=2)
    assert instructions(result) == ["Math: 1", "Math: 2", "Math: 3"]
    assert dropped(result) == {"unlike": ["Math: 4", "Math: 5"], "unrated": ["Math: 6"]}
    assert result.dropped[0].detail == "complexity 6.1, mean of its examples 4.0"


def test_filters_drop_a_pair_if_no_example_has_a_rating() -> None:
    def rate(examples: Sequence[Example]) -> list[float | None]:
        return [None if "example" in example.instruction else 4.0 for example in examples]

    result = expanded([request(1)], scripted(["Math: a"], [], []), rate=rate, max_complexity_gap=9)
    assert dropped(result) == {"unrated": ["Math: a"]}


def test_filters_compare_no_complexity_without_examples() -> None:
    result = expanded([request(2, shown=0)], Writer(), max_complexity_gap=0)
    assert len(result.rows) == 2


def test_figures_count_every_pair_by_reason() -> None:
    result = expanded(
        [request(3)], scripted(["Law: a", "Math: b", "? c"], ["Math: d", "Math: b", "Math: e", "Math: f"])
    )
    assert result.figures == {
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


def test_pairs_far_beyond_the_requested_ones_are_not_read() -> None:
    """The classifier is paid for each pair that is read."""
    result = expanded([request(3)], Writer(num_output_samples=40))
    assert (result.calls, result.proposed, len(result.rows)) == (1, MOST_PAIRS * 4, 3)
