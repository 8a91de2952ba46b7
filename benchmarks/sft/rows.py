"""Rows to train on, of Alpaca's lengths, in a language that can be learnt; and the model that learns it."""

from random import Random

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tapir_exp.core.records import Subset
from tapir_exp.student.training.encoded_rows import EncodedRow

WORDS, END = 8000, 1
MEDIAN, SPREAD, SHORTEST, LONGEST = 108, 0.7, 16, 512
"""Of a lognormal distribution of tokens: its mean is 137, as of Alpaca under a tokenizer of that size."""
PROMPT = 0.25
"""Share of a row's tokens that are its prompt's."""
FOLLOWERS = 4
"""Words that may follow a word; a loss of log 4 is all that can be reached."""


def make_rows(count: int, seed: int) -> list[EncodedRow]:
    """Rows of random walks; the walks of all seeds go by the same rules."""
    random = Random(f"rows {seed}")
    return [_make_row(random) for _ in range(count)]


def make_model() -> LlamaForCausalLM:
    """A Llama of about 10 million parameters, the same at every call."""
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8, "num_attention_heads": 8}
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, max_position_embeddings=LONGEST, **shape))


def _make_row(random: Random) -> EncodedRow:
    length = min(LONGEST, max(SHORTEST, round(random.lognormvariate(0, SPREAD) * MEDIAN)))
    tokens = [random.randrange(2, WORDS)]
    while len(tokens) < length - 1:
        tokens.append(2 + (tokens[-1] * 31 + 977 * random.randrange(FOLLOWERS)) % (WORDS - 2))
    return EncodedRow((*tokens, END), max(1, round(PROMPT * length)), Subset.REST)
