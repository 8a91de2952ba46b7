"""Tokens sampled at a temperature, each row from its own stream."""

from collections import Counter

import pytest
import torch

from tapir_exp.student.engines.sampling import Sampler, SamplingParams


def test_token_frequencies_match_probabilities() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sampler = Sampler([SamplingParams(0.5, 7)])
    counts = Counter(int(sampler.sample(logits)) for _ in range(4000))
    for token, share in enumerate(torch.softmax(logits[0] / 0.5, 0).tolist()):
        assert counts[token] / 4000 == pytest.approx(share, abs=0.025)


def test_each_row_has_its_own_temperature_and_stream() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    params = [SamplingParams(0.0, 1), SamplingParams(1.0, 2), SamplingParams(1.0, 3)]
    together = Sampler(params)
    first = together.sample(logits)
    assert int(first[0]) == int(logits[0].argmax())
    together.select([0, 2])
    alone = Sampler([params[2]])
    assert int(alone.sample(logits[2:])) == int(first[2])
    assert int(together.sample(logits[[0, 2]])[1]) == int(alone.sample(logits[2:]))
