"""The transformers engine: rows leave their batch when they are finished."""

from pathlib import Path

import pytest
import torch
from generation import MAX_NEW_TOKENS, generate_in_order, opened_engine
from transformers import GPT2Config, GPT2LMHeadModel

from tapir_exp.config import EngineKind
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines.base import Continuation
from tapir_exp.student.engines.hf import ActiveRows, TransformersEngine, compacted_indices


def test_finished_rows_do_not_wait_for_their_batch(
    random_student: Path, chat: Chat, prompts: list[list[int]], expected: list[Continuation]
) -> None:
    with opened_engine(EngineKind.transformers, random_student, chat, len(prompts)) as engine:
        lengths = [len(row.tokens) + row.finished for _, row in engine.generate(prompts, MAX_NEW_TOKENS)]
    assert lengths == sorted(lengths)


def test_padding_does_not_shift_positions(chat: Chat) -> None:
    """GPT-2 has learnt absolute positions, so it shows a shift that rotary embeddings would hide."""
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.5)
    engine = TransformersEngine(GPT2LMHeadModel(shape).eval(), frozenset({chat.end}), chat.pad, 3)  # type: ignore[no-untyped-call]
    prompts = chat.encode_prompts(["Say red", "Say red green blue black white red", "Say blue 17"])
    assert generate_in_order(engine, prompts, 8) == [generate_in_order(engine, [prompt], 8)[0] for prompt in prompts]


def test_active_rows_keep_tokens_with_their_row() -> None:
    rows = ActiveRows(4)
    rows.append([10, 11, 12, 13])
    assert rows.remove([True, False, False, False]) == ([(0, [10])], [3, 1, 2])
    rows.append([23, 21, 22])
    assert rows.remove([False, True, False]) == ([(1, [11, 21])], [0, 2])
    assert list(rows) == [(3, [13, 23]), (2, [12, 22])]


@pytest.mark.parametrize(
    ("stopped", "indices"),
    [
        ([False, False], [0, 1]),
        ([True, False, False], [2, 1]),
        ([False, True, True, False], [0, 3]),
        ([True, True], []),
    ],
)
def test_compacted_indices_fill_gaps_from_the_end(stopped: list[bool], indices: list[int]) -> None:
    assert compacted_indices(stopped) == indices


@pytest.mark.slow
def test_steps_do_not_use_cudnn_attention(random_student: Path, chat: Chat, prompts: list[list[int]]) -> None:
    """Its plans are built anew for each number of tokens, which took most of a step on a GPU."""
    enabled: list[bool] = []
    with opened_engine(EngineKind.transformers, random_student, chat, 3) as engine:
        assert isinstance(engine, TransformersEngine)
        engine._model.register_forward_hook(lambda *_: enabled.append(torch.backends.cuda.cudnn_sdp_enabled()))
        before = torch.backends.cuda.cudnn_sdp_enabled()
        list(engine.generate(prompts, MAX_NEW_TOKENS))
    assert enabled
    assert not any(enabled)
    assert torch.backends.cuda.cudnn_sdp_enabled() == before
