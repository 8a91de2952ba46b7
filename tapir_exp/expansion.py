"""Expansion: the teacher fills a plan's orders, and only what is new and of the ordered type is kept."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from tapir_exp.config import TeacherConfig
from tapir_exp.novelty import Novelty
from tapir_exp.records import Example, Label, Origin, TrainingExample, example_id
from tapir_exp.schedule import Order
from tapir_exp.teacher import Commission, Pair

Expand = Callable[[Sequence[Commission]], list[tuple[Pair, ...]]]
Classify = Callable[[Sequence[Example]], list[Label]]


@dataclass
class Growth:
    """What came of a plan's orders so far.

    kept: the rows kept for each order, at most as many as ordered.
    tally: calls made; pairs proposed, repeated (not new), unlabelled, off_type (labelled otherwise
    than ordered), surplus.
    """

    kept: dict[Order, list[TrainingExample]]
    tally: Counter[str] = field(default_factory=Counter)

    def lacking(self, order: Order) -> int:
        """Rows of an order that are still to come."""
        return order.count - len(self.kept[order])

    @property
    def rows(self) -> list[TrainingExample]:
        """All kept rows, in the sequence of the orders."""
        return [row for rows in self.kept.values() for row in rows]


def grow(
    orders: Sequence[Order],
    novelty: Novelty,
    config: TeacherConfig,
    seed: int,
    round_number: int,
    expand: Expand,
    classify: Classify,
) -> Growth:
    """Have `orders` filled, asking up to `config.waves` times for what is still lacking.

    `seed` and `round_number` make the sampled calls of every seed and round draws of their own.
    """
    growth = Growth({order: [] for order in orders})
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
        growth.tally["calls"] += len(commissions)
        proposals = [
            (order, _example(pair, commission, round_number))
            for (order, commission), pairs in zip(commissions, replies, strict=True)
            for pair in pairs
        ]
        _keep(growth, proposals, novelty, classify)
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


def _example(pair: Pair, commission: Commission, round_number: int) -> Example:
    return Example(
        id=example_id(pair.instruction),
        instruction=pair.instruction,
        response=pair.response,
        origin=Origin.EXPANSION,
        parents=tuple(example.id for example in commission.examples),
        round=round_number,
    )


def _keep(growth: Growth, proposals: Sequence[tuple[Order, Example]], novelty: Novelty, classify: Classify) -> None:
    fresh = [(order, example) for order, example in proposals if novelty.admit(example.instruction)]
    labels = classify([example for _, example in fresh])
    growth.tally["proposed"] += len(proposals)
    growth.tally["repeated"] += len(proposals) - len(fresh)
    for (order, example), label in zip(fresh, labels, strict=True):
        if label.task is None:
            growth.tally["unlabelled"] += 1
        elif label.task is not order.task:
            growth.tally["off_type"] += 1
        elif growth.lacking(order) == 0:
            growth.tally["surplus"] += 1
        else:
            growth.kept[order].append(_row(order, example))


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
