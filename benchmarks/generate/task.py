"""The task of all contenders: a small Llama with random weights, and prompts of various lengths."""

from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCAB_SIZE, PAD, END = 8000, 0, 1
MEDIAN, SPREAD, SHORTEST, LONGEST = 32, 0.7, 8, 256
"""Lognormal distribution of the length of a prompt in tokens, and its bounds."""
LIMIT = 128
"""Most new tokens of a response."""
END_SCALE = 1.9
"""Factor on the end token's row of the output layer, so that responses end after about 45 tokens."""


def make_student(directory: Path) -> None:
    """Write a Llama of about 10 million parameters, the same at every call, with a tokenizer of numbered words."""
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8, "num_attention_heads": 8}
    ends = {"bos_token_id": None, "eos_token_id": END, "pad_token_id": PAD, "initializer_range": 0.1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB_SIZE, max_position_embeddings=512, **shape, **ends))
    model.lm_head.weight.data[END] *= END_SCALE
    model.save_pretrained(directory)
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCAB_SIZE)}, unk_token="w2"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w0").save_pretrained(directory)


def make_prompts(count: int, seed: int) -> list[list[int]]:
    """Return prompts of random tokens."""
    random = Random(f"prompts {seed}")
    return [_make_prompt(random) for _ in range(count)]


def _make_prompt(random: Random) -> list[int]:
    length = min(LONGEST, max(SHORTEST, round(random.lognormvariate(0, SPREAD) * MEDIAN)))
    return [random.randrange(2, VOCAB_SIZE) for _ in range(length)]
