"""Students with random weights, and their greedy continuations by transformers' own `generate`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from generation import MAX_NEW_TOKENS
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines.base import Continuation

SHAPE = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.5}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, **HEADS, rope_parameters=rope(100.0))),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE, **HEADS, rope_parameters=rope(10000.0))),
}


def rope(theta: float) -> dict[str, Any]:
    return {"rope_theta": theta, "rope_type": "default"}


@pytest.fixture(scope="session")
def stop_ids(chat: Chat) -> list[int]:
    """Return many tokens that end a turn, so that random weights end at various lengths."""
    return [chat.end, *range(100, 130)]


@pytest.fixture(scope="session", params=list(MODELS))
def random_student(
    request: pytest.FixtureRequest, chat: Chat, stop_ids: list[int], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    torch.manual_seed(3)
    model, directory = MODELS[request.param](), tmp_path_factory.mktemp(request.param)
    model.generation_config = GenerationConfig(eos_token_id=stop_ids, pad_token_id=chat.pad)  # type: ignore[no-untyped-call]
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    model.save_pretrained(directory)
    chat.tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """Return prompts of various lengths, unsorted."""
    return [[130 + (7 * n + 11 * index) % 160 for index in range(1 + (5 * n) % 13)] for n in range(14)]


@pytest.fixture(scope="session")
def expected(random_student: Path, prompts: list[list[int]], stop_ids: list[int], chat: Chat) -> list[Continuation]:
    """Return the continuations by transformers, one prompt at a time; the fake vLLM reads them from a file."""
    model: Any = AutoModelForCausalLM.from_pretrained(str(random_student))
    continuations, replies = [], []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        settings = {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False}
        ends = {"eos_token_id": stop_ids, "pad_token_id": chat.pad}
        new = model.generate(ids, attention_mask=torch.ones_like(ids), **settings, **ends)[0, len(prompt) :].tolist()
        finished = new[-1] in stop_ids
        continuations.append(Continuation(tuple(new[:-1] if finished else new), finished))
        replies.append((prompt, new))
    (random_student / "replies.json").write_text(json.dumps(replies))
    return continuations
