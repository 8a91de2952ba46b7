"""Tokens drawn at a temperature, from streams that depend on nobody else in the batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SamplingParams:
    """How the tokens of one answer are drawn; a temperature of 0 takes the likeliest."""

    temperature: float
    seed: int


class Sampler:
    """Draws the next token of every row at its temperature and from its seed, by the Gumbel-max trick."""

    def __init__(self, draws: Sequence[SamplingParams]) -> None:
        self._rows = [(draw.temperature, torch.Generator().manual_seed(draw.seed)) for draw in draws]

    def choose(self, logits: Tensor) -> Tensor:
        """Logits (rows, vocabulary) to tokens (rows,)."""
        noise = torch.zeros(logits.shape)
        for row, (temperature, generator) in enumerate(self._rows):
            if temperature:
                noise[row] = -temperature * torch.empty(logits.shape[-1]).exponential_(generator=generator).log()
        return (logits.float() + noise.to(logits.device)).argmax(-1)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self._rows = [self._rows[row] for row in rows]
