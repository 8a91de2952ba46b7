"""Sample tokens at a temperature, each row from its own random stream, so that batching does not matter."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SamplingParams:
    """How to sample the tokens of one response.

    Attributes:
        temperature: Temperature of the softmax; 0 is greedy.
        seed: Seed of the response's random stream.
    """

    temperature: float
    seed: int


class Sampler:
    """Samples the next token of every row with the Gumbel-max trick."""

    def __init__(self, params: Sequence[SamplingParams]) -> None:
        self._rows = [(row.temperature, torch.Generator().manual_seed(row.seed)) for row in params]

    def sample(self, logits: Tensor) -> Tensor:
        """Return the next token of each row, (rows,), from logits (rows, vocabulary)."""
        # argmax(logits + temperature * Gumbel noise) samples from softmax(logits / temperature), and the noise is
        # -log of an exponential variable. It is drawn on the CPU, so that all devices draw the same.
        noise = torch.zeros(logits.shape)
        for row, (temperature, generator) in enumerate(self._rows):
            if temperature:
                noise[row] = -temperature * torch.empty(logits.shape[-1]).exponential_(generator=generator).log()
        return (logits.float() + noise.to(logits.device)).argmax(-1)

    def select(self, rows: Sequence[int]) -> None:
        """Keep the streams of these rows only, in this order."""
        self._rows = [self._rows[row] for row in rows]
