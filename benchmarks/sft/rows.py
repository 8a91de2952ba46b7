"""Synthetic training rows with the lengths of Alpaca, and the model that is trained on them."""

from random import Random

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tapir_exp.core.records import Subset
from tapir_exp.student.training.encoded_rows import EncodedRow

VOCAB_SIZE, END = 8000, 1
MEDIAN, SPREAD, SHORTEST, LONGEST = 108, 0.7, 16, 512
"""Lognormal distribution of row lengths in tokens. Its mean is 137, as of Alpaca with a tokenizer of this size."""
PROMPT = 0.25
"""Share of the prompt in the tokens of a row."""
FOLLOWERS = 4
"""Tokens that can follow a token, with equal probability, so the lowest possible loss is log 4."""


def make_rows(count: int, seed: int) -> list[EncodedRow]:
    """Return rows that are random walks. The transitions are the same for all seeds."""
    random = Random(f"rows {seed}")
    return [_make_row(random) for _ in range(count)]


def make_model() -> LlamaForCausalLM:
    """Return a Llama of about 10 million parameters, the same at every call."""
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8, "num_attention_heads": 8}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB_SIZE, max_position_embeddings=LONGEST, **shape))


def _make_row(random: Random) -> EncodedRow:
    length = min(LONGEST, max(SHORTEST, round(random.lognormvariate(0, SPREAD) * MEDIAN)))
    tokens = [random.randrange(2, VOCAB_SIZE)]
    while len(tokens) < length - 1:
        tokens.append(2 + (tokens[-1] * 31 + 977 * random.randrange(FOLLOWERS)) % (VOCAB_SIZE - 2))
    return EncodedRow((*tokens, END), max(1, round(PROMPT * length)), Subset.REST)
