"""Rows of token ids, the sequence of batches of a whole fit, and the loader that can stop and go on anywhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tapir_exp.config import BudgetConfig
from tapir_exp.errors import TapirError
from tapir_exp.records import Part
from tapir_exp.student.chat_template import Chat

IGNORED = -100
"""Label of a position that is not supervised."""
GROUPED_BATCHES = 16
"""Batches whose rows are sorted by length together."""


@dataclass(frozen=True)
class TrainingRow:
    """What the student is trained on: the response to an instruction, and its part in the round's mix."""

    instruction: str
    response: str
    part: Part = Part.REST


@dataclass(frozen=True)
class Row:
    """A training row as token ids: prompt, response, end of turn.

    prompt: tokens of the prompt; they are read, never supervised.
    """

    tokens: tuple[int, ...]
    prompt: int
    part: Part

    @property
    def supervised(self) -> int:
        """Tokens that the loss counts."""
        return len(self.tokens) - self.prompt


@dataclass(frozen=True)
class EncodedRows:
    """The rows that can be trained on; how many were cut at the length limit, and how many left out for it."""

    rows: tuple[Row, ...]
    truncated: int
    dropped: int

    def supervised(self, part: Part) -> int:
        """Supervised tokens of one part."""
        return sum(row.supervised for row in self.rows if row.part is part)


def encode_rows(rows: Sequence[TrainingRow], chat: Chat, max_length: int) -> EncodedRows:
    """Encode rows; the loss will see the response and the end of turn.

    A row longer than `max_length` tokens loses the end of its response; a row whose prompt alone is that long is
    dropped. Raises TapirError where nothing is left.
    """
    prompts = chat.encode_prompts([row.instruction for row in rows])
    responses = chat.encode_responses([row.response for row in rows])
    whole = [Row((*p, *r), len(p), row.part) for p, r, row in zip(prompts, responses, rows, strict=True)]
    kept = [row for row in whole if row.prompt < max_length]
    if not kept:
        raise TapirError(f"None of {len(rows)} training rows has a response token within {max_length} tokens.")
    cut = tuple(replace(row, tokens=row.tokens[:max_length]) for row in kept)
    truncated = sum(len(row.tokens) > max_length for row in kept)
    return EncodedRows(cut, truncated, len(whole) - len(kept))


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a whole fit, one per optimiser step, as indices of rows."""

    steps: tuple[tuple[int, ...], ...]


def plan_batches(lengths: Sequence[int], budget: BudgetConfig, batch_rows: int, seed: int) -> BatchPlan:
    """Lay out all optimiser steps of a fit; the same arguments give the same plan.

    lengths: tokens of each row. Every epoch is shuffled anew and grouped by length; the last batch is cut at
    the row that reaches the budget, so a fit exceeds a budget of tokens by less than one row.
    """
    limit = budget.tokens if budget.tokens is not None else round((budget.epochs or 0.0) * len(lengths))
    spent, steps = 0, []
    for batch in _endless_batches(lengths, batch_rows, seed):
        taken = []
        for row in batch:
            if spent >= limit:
                break
            spent += 1 if budget.tokens is None else lengths[row]
            taken.append(row)
        if taken:
            steps.append(tuple(taken))
        if spent >= limit:
            return BatchPlan(tuple(steps))
    raise AssertionError("epochs never end")


def _endless_batches(lengths: Sequence[int], batch_rows: int, seed: int) -> Iterator[list[int]]:
    for epoch in count():
        yield from _epoch_batches(lengths, batch_rows, Random(f"batches {seed} {epoch}"))


def _epoch_batches(lengths: Sequence[int], batch_rows: int, random: Random) -> list[list[int]]:
    """Every row once: sorted by length within groups of batches, so that a batch needs little padding."""
    order = list(range(len(lengths)))
    random.shuffle(order)
    batches = []
    for start in range(0, len(order), GROUPED_BATCHES * batch_rows):
        group = sorted(order[start : start + GROUPED_BATCHES * batch_rows], key=lengths.__getitem__)
        batches += [group[i : i + batch_rows] for i in range(0, len(group), batch_rows)]
    random.shuffle(batches)
    return batches


class MicroBatch(NamedTuple):
    """Rows of one forward pass, padded on the right.

    tokens: (rows, length) ids. labels: (rows, length) ids, IGNORED outside responses. hard: (rows,) booleans,
    whether the row is of the hard part. first: the first position that holds a label.
    """

    tokens: Tensor
    labels: Tensor
    hard: Tensor
    first: int


class StepBatch(NamedTuple):
    """One optimiser step: its micro-batches, and their real and supervised tokens together."""

    micro_batches: list[MicroBatch]
    tokens: int
    supervised: int


class StepLoader:
    """Walks through a plan, one optimiser step at a time.

    Lightning saves `state_dict` with its checkpoints and hands it back on resuming, which makes a resumed fit see
    exactly the steps that the killed one did not.
    """

    def __init__(self, rows: Sequence[Row], plan: BatchPlan, micro_batch_rows: int, pad: int) -> None:
        self._rows, self._plan, self._micro_batch_rows, self._pad = rows, plan, micro_batch_rows, pad
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

    def _load(self, rows: list[Row]) -> StepBatch:
        size = self._micro_batch_rows
        batches = [collate(rows[start : start + size], self._pad) for start in range(0, len(rows), size)]
        return StepBatch(batches, sum(len(row.tokens) for row in rows), sum(row.supervised for row in rows))


def collate(rows: Sequence[Row], pad: int) -> MicroBatch:
    """Pad rows on the right to the longest of them."""
    shape = (len(rows), max(len(row.tokens) for row in rows))
    tokens = torch.full(shape, pad, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row.tokens)] = torch.tensor(row.tokens)
        labels[index, row.prompt : len(row.tokens)] = torch.tensor(row.tokens[row.prompt :], dtype=torch.long)
    hard = torch.tensor([row.part is Part.HARD for row in rows])
    return MicroBatch(tokens, labels, hard, min(row.prompt for row in rows))
