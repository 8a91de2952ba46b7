"""Expansion: the teacher fills a plan's orders, and only what is new, clean and of the ordered type is kept."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from statistics import fmean
from typing import Any

from tapir_exp.config import TeacherConfig
from tapir_exp.core.records import Example, Label, LeftOut, Origin, TrainingExample, Why, example_id
from tapir_exp.data.decontamination import Benchmarks
from tapir_exp.data.novelty import Novelty
from tapir_exp.distillation.curriculum.sampling import Order
from tapir_exp.distillation.teacher import Commission, Pair

Expand = Callable[[Sequence[Commission]], list[tuple[Pair, ...]]]
Classify = Callable[[Sequence[Example]], list[Label]]
Rate = Callable[[Sequence[Example]], list[float | None]]


@dataclass(frozen=True)
class Gate:
    """What a proposal must pass, in this order, the cheapest question first.

    novelty: nothing seen is too close to it. benchmarks: it gives no question away. classify: it is of the ordered
    type. rate: it is about as complex as its examples, where `teacher.similar_within` asks for that.
    """

    novelty: Novelty
    benchmarks: Benchmarks
    classify: Classify
    rate: Rate


@dataclass(frozen=True)
class Proposal:
    """A pair that the teacher wrote for an order, by its number among all of the round, from 1."""

    number: int
    order: Order
    examples: tuple[Example, ...]
    example: Example


@dataclass
class Growth:
    """What came of a plan's orders so far.

    kept: the rows kept for each order, at most as many as ordered. left_out: every other proposal, with its reason.
    checked: whether there was a benchmark to check them against.
    """

    kept: dict[Order, list[TrainingExample]]
    checked: bool
    calls: int = 0
    proposed: int = 0
    left_out: list[LeftOut] = field(default_factory=list)

    def lacking(self, order: Order) -> int:
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
        reasons = Counter(left_out.why for left_out in self.left_out)
        rows, missed = len(self.rows), reasons[Why.OFF_TYPE]
        typed = missed + reasons[Why.UNRATED] + reasons[Why.UNLIKE] + reasons[Why.SURPLUS] + rows
        return {
            "ordered": sum(order.count for order in self.kept),
            "calls": self.calls,
            "proposed": self.proposed,
            "repeated": reasons[Why.REPEATED],
            "contaminated": reasons[Why.CONTAMINATED] if self.checked else None,
            "unlabelled": reasons[Why.UNLABELLED],
            "off_type": missed,
            "unrated": reasons[Why.UNRATED],
            "unlike": reasons[Why.UNLIKE],
            "surplus": reasons[Why.SURPLUS],
            "kept_per_call": rows / self.calls if self.calls else None,
            "off_type_share": missed / typed if typed else None,
        }

    def leave_out(self, proposal: Proposal, why: Why, detail: str) -> None:
        """Write down that a proposal is left out, and why."""
        example = proposal.example
        source = f"round {example.round}"
        self.left_out.append(
            LeftOut(source=source, row=proposal.number, why=why, detail=detail, instruction=example.instruction)
        )


def grow(
    orders: Sequence[Order],
    gate: Gate,
    config: TeacherConfig,
    seed: int,
    round_number: int,
    expand: Expand,
) -> Growth:
    """Have `orders` filled, asking up to `config.waves` times for what is still lacking.

    `seed` and `round_number` make the sampled calls of every seed and round draws of their own.
    """
    growth = Growth({order: [] for order in orders}, checked=bool(gate.benchmarks))
    for wave in range(config.waves):
        commissions = [
            (order, commission)
            for place, order in enumerate(orders)
            for commission in commissions_of(
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


def commissions_of(order: Order, lacking: int, config: TeacherConfig, wave: int, occasion: str) -> list[Commission]:
    """The calls that would fill what an order lacks, each shown the next few of its examples, in turn.

    occasion: tells apart the orders, waves, rounds and seeds that may show the same examples.
    """
    commissions = []
    for number, asked in enumerate(range(0, lacking, config.per_call)):
        start = (wave + number) * config.examples_per_call
        shown = [order.examples[(start + i) % len(order.examples)] for i in range(_shown(order, config))]
        count = min(config.per_call, lacking - asked)
        examples = tuple(candidate.example for candidate in shown)
        commissions.append(Commission(order.task, count, examples, sample_of(occasion, number)))
    return commissions


def sample_of(occasion: str, number: int) -> int:
    """The number of a draw, 48 bits that depend on the arguments alone."""
    return int.from_bytes(sha256(f"{occasion} {number}".encode()).digest()[:6])


def _shown(order: Order, config: TeacherConfig) -> int:
    return min(config.examples_per_call, len(order.examples))


def _proposals(
    commissions: Sequence[tuple[Order, Commission]], replies: Sequence[tuple[Pair, ...]], first: int, round_number: int
) -> list[Proposal]:
    written = [
        (order, commission.examples, _example(pair, commission, round_number))
        for (order, commission), pairs in zip(commissions, replies, strict=True)
        for pair in pairs
    ]
    return [Proposal(number, *fields) for number, fields in enumerate(written, first)]


def _example(pair: Pair, commission: Commission, round_number: int) -> Example:
    return Example(
        id=example_id(pair.instruction),
        instruction=pair.instruction,
        response=pair.response,
        origin=Origin.EXPANSION,
        parents=tuple(example.id for example in commission.examples),
        round=round_number,
    )


def _keep(growth: Growth, proposals: Sequence[Proposal], gate: Gate, config: TeacherConfig) -> None:
    """Let the proposals through the gate, one question after another, and keep what is ordered."""
    passed = _clean(growth, _new(growth, proposals, gate.novelty), gate.benchmarks)
    passed = _of_type(growth, passed, gate.classify)
    if config.similar_within is not None:
        passed = _similar(growth, passed, gate.rate, config.similar_within)
    for proposal in passed:
        if growth.lacking(proposal.order):
            growth.kept[proposal.order].append(_row(proposal.order, proposal.example))
        else:
            growth.leave_out(proposal, Why.SURPLUS, "more than was ordered")


def _new(growth: Growth, proposals: Sequence[Proposal], novelty: Novelty) -> list[Proposal]:
    new = []
    for proposal in proposals:
        if novelty.admit(proposal.example.instruction):
            new.append(proposal)
        else:
            growth.leave_out(proposal, Why.REPEATED, "too close to an instruction seen before")
    return new


def _clean(growth: Growth, proposals: Sequence[Proposal], benchmarks: Benchmarks) -> list[Proposal]:
    clean = []
    for proposal in proposals:
        leak = benchmarks.find_leak(proposal.example.instruction, proposal.example.response)
        if leak is None:
            clean.append(proposal)
        else:
            growth.leave_out(proposal, Why.CONTAMINATED, str(leak))
    return clean


def _of_type(growth: Growth, proposals: Sequence[Proposal], classify: Classify) -> list[Proposal]:
    typed = []
    labels = classify([proposal.example for proposal in proposals])
    for proposal, label in zip(proposals, labels, strict=True):
        if label.task is None:
            growth.leave_out(proposal, Why.UNLABELLED, label.failure or "no label")
        elif label.task is not proposal.order.task:
            growth.leave_out(proposal, Why.OFF_TYPE, f"{label.task} instead of {proposal.order.task}")
        else:
            typed.append(proposal)
    return typed


def _similar(growth: Growth, proposals: Sequence[Proposal], rate: Rate, within: float) -> list[Proposal]:
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
            growth.leave_out(proposal, Why.UNRATED, "it, or every example of it, got no rating")
        else:
            growth.leave_out(proposal, Why.UNLIKE, f"complexity {own:g}, its examples {fmean(others):.1f}")
    return similar


def _row(order: Order, example: Example) -> TrainingExample:
    return TrainingExample(
        id=example.id,
        instruction=example.instruction,
        response=example.response,
        task=order.task,
        part=order.part,
        origin=example.origin,
        parents=example.parents,
        born=example.round,
        gap=None,
    )
