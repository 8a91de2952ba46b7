"""Plan batches and micro-batches of encoded rows."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import accumulate, count
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tapir_exp.config import BudgetConfig
from tapir_exp.core.records import Subset
from tapir_exp.student.packing import RowBounds, row_bounds
from tapir_exp.student.training.encoded_rows import EncodedRow

GROUPED_BATCHES = 16
"""Batches whose rows are sorted by length together."""


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a whole fit, one per optimiser step, as indices of rows."""

    steps: tuple[tuple[int, ...], ...]


def plan_batches(lengths: Sequence[int], budget: BudgetConfig, global_batch_size: int, seed: int) -> BatchPlan:
    """Lay out all optimiser steps of a fit; the same arguments give the same plan.

    lengths: tokens of each row. Every epoch is shuffled anew and grouped by length; the last batch is cut at
    the row that reaches the budget, so a fit exceeds a budget of tokens by less than one row.
    """
    limit = budget.max_tokens if budget.max_tokens is not None else round((budget.epochs or 0.0) * len(lengths))
    spent, steps = 0, []
    for batch in _endless_batches(lengths, global_batch_size, seed):
        taken = []
        for row in batch:
            if spent >= limit:
                break
            spent += 1 if budget.max_tokens is None else lengths[row]
            taken.append(row)
        if taken:
            steps.append(tuple(taken))
        if spent >= limit:
            return BatchPlan(tuple(steps))
    raise AssertionError("epochs never end")


def _endless_batches(lengths: Sequence[int], global_batch_size: int, seed: int) -> Iterator[list[int]]:
    for epoch in count():
        yield from _epoch_batches(lengths, global_batch_size, Random(f"batches {seed} {epoch}"))


def _epoch_batches(lengths: Sequence[int], global_batch_size: int, random: Random) -> list[list[int]]:
    """Every row once: sorted by length within groups of batches, so that a batch needs little padding."""
    order = list(range(len(lengths)))
    random.shuffle(order)
    batches = []
    for start in range(0, len(order), GROUPED_BATCHES * global_batch_size):
        group = sorted(order[start : start + GROUPED_BATCHES * global_batch_size], key=lengths.__getitem__)
        batches += [group[i : i + global_batch_size] for i in range(0, len(group), global_batch_size)]
    random.shuffle(batches)
    return batches


class MicroBatch(NamedTuple):
    """Rows of one forward pass, packed behind one another.

    tokens: (tokens,) ids. bounds: of the rows. before: (supervised,) places of the tokens that come before supervised
    ones, and predict them. targets: (supervised,) ids. hard: (supervised,) booleans, whether the row is of the hard
    part.
    """

    tokens: Tensor
    bounds: RowBounds
    before: Tensor
    targets: Tensor
    hard: Tensor


class StepBatch(NamedTuple):
    """One optimiser step, as one rank sees it.

    micro_batches: the rank's own. lengths: tokens of each row of the step. supervised: tokens that the loss counts, of
    all rows.
    """

    micro_batches: list[MicroBatch]
    lengths: tuple[int, ...]
    supervised: int

    @property
    def tokens(self) -> int:
        """Real tokens, prompt and response."""
        return sum(self.lengths)


class StepLoader:
    """Walks through a plan, one optimiser step at a time.

    Lightning saves `state_dict` with its checkpoints and hands it back on resuming, which makes a resumed fit see
    exactly the steps that the killed one did not.
    """

    def __init__(
        self, rows: Sequence[EncodedRow], plan: BatchPlan, max_tokens_per_micro_batch: int, rank: int = 0, ranks: int = 1
    ) -> None:
        """rank, ranks: which of how many processes this is; each loads its share of every step."""
        self._rows, self._plan, self._micro_batch_tokens = rows, plan, max_tokens_per_micro_batch
        self._rank, self._ranks = rank, ranks
        self._next = 0

    def __len__(self) -> int:
        return len(self._plan.steps)

    def __iter__(self) -> Iterator[StepBatch]:
        while self._next < len(self):
            self._next += 1
            yield self._load([self._rows[index] for index in self._plan.steps[self._next - 1]])
        self._next = 0

    def state_dict(self) -> dict[str, Any]:
        """Where the walk stands."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self._next = state["next"]

    def _load(self, rows: list[EncodedRow]) -> StepBatch:
        lengths = tuple(len(row.tokens) for row in rows)
        shares = divide_step(lengths, self._micro_batch_tokens, self._ranks)[self._rank :: self._ranks]
        batches = [collate([rows[place] for place in share] or [_untaught(rows[0])]) for share in shares]
        return StepBatch(batches, lengths, sum(row.supervised for row in rows))


def _untaught(row: EncodedRow) -> EncodedRow:
    """One token without a target: every rank goes through the model as often, one without rows of a step too."""
    return replace(row, tokens=row.tokens[:1], prompt=1)


def divide_step(lengths: Sequence[int], limit: int, ranks: int = 1) -> list[list[int]]:
    """Divide the rows of a step among micro-batches of about equal size, as few as `limit` tokens each allow.

    lengths: tokens of each row; a row longer than the limit has a micro-batch for itself. ranks: their number is a
    multiple of it, and where there are fewer rows some micro-batches are empty.
    """
    needed = min(math.ceil(sum(lengths) / limit), len(lengths))
    count = ranks * math.ceil(needed / ranks)
    while True:
        shares = _balance(lengths, count)
        if all(len(share) < 2 or sum(lengths[place] for place in share) <= limit for share in shares):
            return shares
        count += ranks


def _balance(lengths: Sequence[int], count: int) -> list[list[int]]:
    """The longest rows first, each to the share that has least."""
    shares: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, number) for number in range(count)]
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        size, number = heappop(heap)
        shares[number].append(place)
        heappush(heap, (size + lengths[place], number))
    return shares


def collate(rows: Sequence[EncodedRow]) -> MicroBatch:
    """Pack rows behind one another."""
    lengths = [len(row.tokens) for row in rows]
    ends = list(accumulate(lengths))
    before = [place for row, end in zip(rows, ends, strict=True) for place in range(end - row.supervised - 1, end - 1)]
    hard = [row.subset is Subset.HARD for row in rows for _ in range(row.supervised)]
    targets = [token for row in rows for token in row.tokens[row.prompt :]]
    return MicroBatch(
        torch.tensor([token for row in rows for token in row.tokens]),
        row_bounds(lengths),
        torch.tensor(before, dtype=torch.long),
        torch.tensor(targets, dtype=torch.long),
        torch.tensor(hard, dtype=torch.bool),
    )
