"""Plan the batches of a fit, and split each optimiser step into micro-batches of packed rows."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import count
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tapir_exp.config import BudgetConfig
from tapir_exp.student.packing import RowBounds, row_bounds
from tapir_exp.student.training.encoded_rows import EncodedRow
from tapir_exp.student.training.packed_rows import pack_rows


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a whole fit, one per optimiser step, as indices of encoded rows."""

    steps: tuple[tuple[int, ...], ...]


def plan_batches(lengths: Sequence[int], budget: BudgetConfig, global_batch_size: int, seed: int) -> BatchPlan:
    """Plan all optimiser steps of a fit. Equal arguments give equal plans.

    Each epoch is shuffled anew. The last batch ends with the row that reaches the budget, so a fit exceeds a budget of
    tokens by less than one row. Batches are not grouped by length: rows of one length are often of one task type, and a
    batch of one type costs accuracy. `divide_step` balances ranks and micro-batches within a step instead.

    Args:
        lengths: Tokens of each row.
        budget: Length of the fit, in tokens or epochs.
        global_batch_size: Rows of one optimiser step.
        seed: Seed of the order.
    """
    in_tokens = budget.max_tokens is not None
    limit = budget.max_tokens if budget.max_tokens is not None else round((budget.epochs or 0.0) * len(lengths))
    spent, steps = 0, []
    for batch in _endless_batches(len(lengths), global_batch_size, seed):
        taken = []
        for index in batch:
            if spent >= limit:
                break
            spent += lengths[index] if in_tokens else 1
            taken.append(index)
        if taken:
            steps.append(tuple(taken))
        if spent >= limit:
            return BatchPlan(tuple(steps))
    raise AssertionError("epochs never end")


def _endless_batches(rows: int, global_batch_size: int, seed: int) -> Iterator[list[int]]:
    """Yield the batches of one epoch after another. The last batch of an epoch may be smaller."""
    for epoch in count():
        order = list(range(rows))
        Random(f"batches {seed} {epoch}").shuffle(order)
        yield from (order[start : start + global_batch_size] for start in range(0, rows, global_batch_size))


class MicroBatch(NamedTuple):
    """Rows of one forward pass, packed into one sequence.

    Attributes:
        tokens: Ids of all rows, (tokens,).
        bounds: Start and end of each row.
        predictor_positions: Positions of the tokens that precede supervised ones and predict them, (supervised,).
        targets: Ids of the supervised tokens, (supervised,).
        hard: Whether a supervised token belongs to the hard subset, (supervised,).
    """

    tokens: Tensor
    bounds: RowBounds
    predictor_positions: Tensor
    targets: Tensor
    hard: Tensor


class StepBatch(NamedTuple):
    """One optimiser step, as one rank gets it.

    Attributes:
        micro_batches: Micro-batches of this rank.
        lengths: Tokens of each row of the step, over all ranks.
        supervised: Supervised tokens of the step, over all ranks.
    """

    micro_batches: list[MicroBatch]
    lengths: tuple[int, ...]
    supervised: int

    @property
    def tokens(self) -> int:
        """Return the number of real tokens, prompt and response."""
        return sum(self.lengths)


class StepLoader:
    """Iterates over a plan, one optimiser step at a time.

    Lightning saves `state_dict` in its checkpoints and restores it on a resume. So a resumed fit takes the steps
    that the killed one had left.
    """

    def __init__(
        self,
        rows: Sequence[EncodedRow],
        plan: BatchPlan,
        max_tokens_per_micro_batch: int,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        """Create a loader at the first step.

        Args:
            rows: Encoded rows that the plan refers to.
            plan: Batches of the fit.
            max_tokens_per_micro_batch: Largest number of tokens of a forward pass.
            rank: Index of this process.
            num_ranks: Number of processes, each of which loads its share of every step.
        """
        self._rows, self._plan, self._max_tokens = rows, plan, max_tokens_per_micro_batch
        self._rank, self._num_ranks = rank, num_ranks
        self._next = 0

    def __len__(self) -> int:
        return len(self._plan.steps)

    def __iter__(self) -> Iterator[StepBatch]:
        while self._next < len(self):
            # Advance first: a checkpoint is taken while the step is in use, and must not repeat it.
            self._next += 1
            yield self._load([self._rows[index] for index in self._plan.steps[self._next - 1]])
        self._next = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the plan."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at a position that `state_dict` returned."""
        self._next = state["next"]

    def _load(self, rows: list[EncodedRow]) -> StepBatch:
        lengths = tuple(len(row.tokens) for row in rows)
        shares = divide_step(lengths, self._max_tokens, self._num_ranks)[self._rank :: self._num_ranks]
        batches = [collate([rows[index] for index in share] or [_without_targets(rows[0])]) for share in shares]
        return StepBatch(batches, lengths, sum(row.supervised for row in rows))


def _without_targets(row: EncodedRow) -> EncodedRow:
    """Return a row of one token without a target.

    All ranks must run the same number of forward passes, so a rank without rows needs a placeholder.
    """
    return replace(row, tokens=row.tokens[:1], prompt=1)


def divide_step(lengths: Sequence[int], max_tokens: int, num_ranks: int = 1) -> list[list[int]]:
    """Divide the rows of a step among as few micro-batches of about equal size as possible.

    Args:
        lengths: Tokens of each row.
        max_tokens: Largest number of tokens of a micro-batch. A longer row is a micro-batch of one.
        num_ranks: Number of processes. The number of micro-batches is a multiple of it, so some may be empty.

    Returns:
        Row indices of each micro-batch.
    """
    needed = min(math.ceil(sum(lengths) / max_tokens), len(lengths))
    count = num_ranks * math.ceil(needed / num_ranks)
    # `needed` is a lower bound: the rows may not divide evenly enough.
    while True:
        shares = _balance(lengths, count)
        if all(len(share) < 2 or sum(lengths[index] for index in share) <= max_tokens for share in shares):
            return shares
        count += num_ranks


def _balance(lengths: Sequence[int], count: int) -> list[list[int]]:
    """Assign rows to `count` shares, longest first, each to the share with the fewest tokens."""
    shares: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, share) for share in range(count)]
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        size, share = heappop(heap)
        shares[share].append(index)
        heappush(heap, (size + lengths[index], share))
    return shares


def collate(rows: Sequence[EncodedRow]) -> MicroBatch:
    """Pack rows into one sequence of tensors."""
    packed = pack_rows(rows)
    return MicroBatch(
        torch.tensor(packed.tokens),
        row_bounds(packed.lengths),
        torch.tensor(packed.predictor_positions, dtype=torch.long),
        torch.tensor(packed.targets, dtype=torch.long),
        torch.tensor(packed.hard, dtype=torch.bool),
    )
