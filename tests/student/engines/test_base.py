"""The interface that all engines share, against transformers' own greedy generation."""

from pathlib import Path
from typing import Any

import pytest
import torch
from generation import MAX_NEW_TOKENS, generate_in_order, opened_engine
from transformers import AutoModelForCausalLM, GenerationConfig

from tapir_exp.config import EngineKind
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines.base import Continuation, stop_token_ids

ENGINES = tuple(EngineKind)


def test_expected_continuations_end_at_various_lengths(
    random_student: Path, expected: list[Continuation], prompts: list[list[int]], stop_ids: list[int]
) -> None:
    """Without this variety, the tests below would show little."""
    assert len({len(continuation.tokens) for continuation in expected}) > 4
    assert {continuation.finished for continuation in expected} == {True, False}
    model: Any = AutoModelForCausalLM.from_pretrained(str(random_student))
    ends = {
        int(model(torch.tensor([[*prompt, *continuation.tokens]])).logits[0, -1].argmax())
        for prompt, continuation in zip(prompts, expected, strict=True)
        if continuation.finished
    }
    assert ends <= set(stop_ids)
    assert len(ends) > 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("batch_size", [1, 5, 14])
def test_any_batch_size_equals_transformers_generate(
    kind: EngineKind,
    batch_size: int,
    random_student: Path,
    chat: Chat,
    prompts: list[list[int]],
    expected: list[Continuation],
) -> None:
    with opened_engine(kind, random_student, chat, batch_size) as engine:
        assert generate_in_order(engine, prompts) == expected


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENGINES)
def test_max_new_tokens_includes_the_end_of_turn(
    kind: EngineKind, random_student: Path, chat: Chat, prompts: list[list[int]], expected: list[Continuation]
) -> None:
    index = next(index for index, continuation in enumerate(expected) if continuation.finished and continuation.tokens)
    tokens = expected[index].tokens
    with opened_engine(kind, random_student, chat) as engine:
        cut = generate_in_order(engine, [prompts[index]], len(tokens))
        assert cut == [Continuation(tokens, finished=False)]
        complete = generate_in_order(engine, [prompts[index]], len(tokens) + 1)
        assert complete == [Continuation(tokens, finished=True)]
        assert generate_in_order(engine, [], MAX_NEW_TOKENS) == []


@pytest.mark.parametrize(("eos", "added"), [(None, set()), (7, {7}), ([7, 8], {7, 8})])
def test_stop_token_ids_join_chat_and_generation_config(
    chat: Chat, eos: int | list[int] | None, added: set[int]
) -> None:
    generation = GenerationConfig(eos_token_id=eos)  # type: ignore[no-untyped-call]
    assert stop_token_ids(generation, chat) == {chat.end, *added}
    assert stop_token_ids(None, chat) == {chat.end}
