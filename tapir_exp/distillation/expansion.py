"""Expansion: the teacher fills a plan's orders, and only what is new, clean and of the ordered type is kept."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from tapir_exp.config import TeacherConfig
from tapir_exp.core.records import DroppedRow, DropReason, Example, Label, Origin, TrainingExample, example_id
from tapir_exp.core.seeding import derive_seed
from tapir_exp.data.decontamination import Benchmarks
from tapir_exp.data.novelty import Novelty
from tapir_exp.distillation.curriculum.sampling import GenerationRequest
from tapir_exp.distillation.teacher import ExpansionRequest, InstructionPair

Expand = Callable[[Sequence[ExpansionRequest]], list[tuple[InstructionPair, ...]]]
Classify = Callable[[Sequence[Example]], list[Label]]
Rate = Callable[[Sequence[Example]], list[float | None]]


@dataclass(frozen=True)
class AcceptanceFilters:
    """What a proposal must pass, in this order, the cheapest question first.

    novelty: nothing seen is too close to it. benchmarks: it gives no question away. classify: it is of the ordered
    type. rate: it is about as complex as its examples, where `teacher.max_complexity_gap` asks for that.
    """

    novelty: Novelty
    benchmarks: Benchmarks
    classify: Classify
    rate: Rate


@dataclass(frozen=True)
class ExpansionCandidate:
    """A pair that the teacher wrote for an order, by its number among all of the round, from 1."""

    number: int
    order: GenerationRequest
    examples: tuple[Example, ...]
    example: Example


@dataclass
class ExpansionResult:
    """What came of a plan's orders so far.

    kept: the rows kept for each order, at most as many as ordered. dropped: every other proposal, with its reason.
    checked: whether there was a benchmark to check them against.
    """

    kept: dict[GenerationRequest, list[TrainingExample]]
    checked: bool
    calls: int = 0
    proposed: int = 0
    dropped: list[DroppedRow] = field(default_factory=list)

    def lacking(self, order: GenerationRequest) -> int:
        """Rows of an order that are still to come."""
        return order.count - len(self.kept[order])

    @property
    def rows(self) -> list[TrainingExample]:
        """All kept rows, in the sequence of the orders."""
        return [row for rows in self.kept.values() for row in rows]

    @property
    def figures(self) -> dict[str, Any]:
        """How many rows were ordered, calls made, pairs proposed and left out, by reason; and what a call brought.

        contaminated: None where nothing was checked. kept_per_call: rows a call. off_type_share: of the proposals that
        got a label; None where there were none.
        """
        reasons = Counter(dropped.reason for dropped in self.dropped)
        rows, missed = len(self.rows), reasons[DropReason.OFF_TYPE]
        typed = missed + reasons[DropReason.UNRATED] + reasons[DropReason.UNLIKE] + reasons[DropReason.SURPLUS] + rows
        return {
            "ordered": sum(order.count for order in self.kept),
            "calls": self.calls,
            "proposed": self.proposed,
            "repeated": reasons[DropReason.REPEATED],
            "contaminated": reasons[DropReason.CONTAMINATED] if self.checked else None,
            "unlabelled": reasons[DropReason.UNLABELLED],
            "off_type": missed,
            "unrated": reasons[DropReason.UNRATED],
            "unlike": reasons[DropReason.UNLIKE],
            "surplus": reasons[DropReason.SURPLUS],
            "kept_per_call": rows / self.calls if self.calls else None,
            "off_type_share": missed / typed if typed else None,
        }

    def drop(self, proposal: ExpansionCandidate, reason: DropReason, detail: str) -> None:
        """Write down that a proposal is left out, and why."""
        example = proposal.example
        source = f"round {example.round}"
        self.dropped.append(
            DroppedRow(
                source=source, row=proposal.number, reason=reason, detail=detail, instruction=example.instruction
            )
        )


def expand_until_filled(
    orders: Sequence[GenerationRequest],
    gate: AcceptanceFilters,
    config: TeacherConfig,
    seed: int,
    round_number: int,
    expand: Expand,
) -> ExpansionResult:
    """Have `orders` filled, asking up to `config.waves` times for what is still lacking.

    `seed` and `round_number` make the sampled calls of every seed and round draws of their own.
    """
    growth = ExpansionResult({order: [] for order in orders}, checked=bool(gate.benchmarks))
    for wave in range(config.max_expansion_passes):
        commissions = [
            (order, commission)
            for place, order in enumerate(orders)
            for commission in split_into_calls(
                order, growth.lacking(order), config, wave, f"{seed} {round_number} {wave} {place}"
            )
        ]
        if not commissions:
            break
        replies = expand([commission for _, commission in commissions])
        proposals = _proposals(commissions, replies, growth.proposed + 1, round_number)
        growth.calls += len(commissions)
        growth.proposed += len(proposals)
        _keep(growth, proposals, gate, config)
    return growth


def split_into_calls(
    order: GenerationRequest, lacking: int, config: TeacherConfig, wave: int, occasion: str
) -> list[ExpansionRequest]:
    """The calls that would fill what an order lacks, each shown the next few of its examples, in turn.

    occasion: tells apart the orders, waves, rounds and seeds that may show the same examples.
    """
    commissions = []
    for number, asked in enumerate(range(0, lacking, config.num_output_samples)):
        start = (wave + number) * config.num_in_context_samples
        shown = [order.examples[(start + i) % len(order.examples)] for i in range(_shown(order, config))]
        count = min(config.num_output_samples, lacking - asked)
        examples = tuple(candidate.example for candidate in shown)
        commissions.append(
            ExpansionRequest(order.task, count, examples, derive_seed(occasion, number, separator=" ", bits=48))
        )
    return commissions


def _shown(order: GenerationRequest, config: TeacherConfig) -> int:
    return min(config.num_in_context_samples, len(order.examples))


def _proposals(
    commissions: Sequence[tuple[GenerationRequest, ExpansionRequest]],
    replies: Sequence[tuple[InstructionPair, ...]],
    first: int,
    round_number: int,
) -> list[ExpansionCandidate]:
    written = [
        (order, commission.examples, _example(pair, commission, round_number))
        for (order, commission), pairs in zip(commissions, replies, strict=True)
        for pair in pairs
    ]
    return [ExpansionCandidate(number, *fields) for number, fields in enumerate(written, first)]


def _example(pair: InstructionPair, commission: ExpansionRequest, round_number: int) -> Example:
    return Example(
        id=example_id(pair.instruction),
        instruction=pair.instruction,
        response=pair.response,
        origin=Origin.EXPANSION,
        parents=tuple(example.id for example in commission.examples),
        round=round_number,
    )


def _keep(
    growth: ExpansionResult, proposals: Sequence[ExpansionCandidate], gate: AcceptanceFilters, config: TeacherConfig
) -> None:
    """Let the proposals through the gate, one question after another, and keep what is ordered."""
    passed = _clean(growth, _new(growth, proposals, gate.novelty), gate.benchmarks)
    passed = _of_type(growth, passed, gate.classify)
    if config.max_complexity_gap is not None:
        passed = _similar(growth, passed, gate.rate, config.max_complexity_gap)
    for proposal in passed:
        if growth.lacking(proposal.order):
            growth.kept[proposal.order].append(_row(proposal.order, proposal.example))
        else:
            growth.drop(proposal, DropReason.SURPLUS, "more than was ordered")


def _new(
    growth: ExpansionResult, proposals: Sequence[ExpansionCandidate], novelty: Novelty
) -> list[ExpansionCandidate]:
    new = []
    for proposal in proposals:
        if novelty.admit(proposal.example.instruction):
            new.append(proposal)
        else:
            growth.drop(proposal, DropReason.REPEATED, "too close to an instruction seen before")
    return new


def _clean(
    growth: ExpansionResult, proposals: Sequence[ExpansionCandidate], benchmarks: Benchmarks
) -> list[ExpansionCandidate]:
    clean = []
    for proposal in proposals:
        leak = benchmarks.find_leak(proposal.example.instruction, proposal.example.response)
        if leak is None:
            clean.append(proposal)
        else:
            growth.drop(proposal, DropReason.CONTAMINATED, str(leak))
    return clean


def _of_type(
    growth: ExpansionResult, proposals: Sequence[ExpansionCandidate], classify: Classify
) -> list[ExpansionCandidate]:
    typed = []
    labels = classify([proposal.example for proposal in proposals])
    for proposal, label in zip(proposals, labels, strict=True):
        if label.task is None:
            growth.drop(proposal, DropReason.UNLABELLED, label.failure or "no label")
        elif label.task is not proposal.order.task:
            growth.drop(proposal, DropReason.OFF_TYPE, f"{label.task} instead of {proposal.order.task}")
        else:
            typed.append(proposal)
    return typed


def _similar(
    growth: ExpansionResult, proposals: Sequence[ExpansionCandidate], rate: Rate, within: float
) -> list[ExpansionCandidate]:
    """The proposals about as complex as their examples; without examples there is nothing to be like."""
    asked = {
        one.id: one for proposal in proposals if proposal.examples for one in (proposal.example, *proposal.examples)
    }
    ratings = dict(zip(asked, rate(list(asked.values())), strict=True)) if asked else {}
    similar = []
    for proposal in proposals:
        own = ratings.get(proposal.example.id)
        others = [rating for one in proposal.examples if (rating := ratings[one.id]) is not None]
        if not proposal.examples or (own is not None and others and abs(own - fmean(others)) <= within):
            similar.append(proposal)
        elif own is None or not others:
            growth.drop(proposal, DropReason.UNRATED, "it, or every example of it, got no rating")
        else:
            growth.drop(proposal, DropReason.UNLIKE, f"complexity {own:g}, its examples {fmean(others):.1f}")
    return similar


def _row(order: GenerationRequest, example: Example) -> TrainingExample:
    return TrainingExample(
        id=example.id,
        instruction=example.instruction,
        response=example.response,
        task=order.task,
        subset=order.subset,
        origin=example.origin,
        parents=example.parents,
        created_in_round=example.round,
        difficulty=None,
    )
