"""Judge and teacher of one family are found by their names; the lab's oracles are nobody's kin."""

import pytest

from tapir_exp.distillation.judge.self_preference import family_of, shared_family


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("openai/gpt-4o", "GPT"),
        ("openai/o3-mini", "GPT"),
        ("azure/chatgpt-4o-latest", "GPT"),
        ("anthropic/claude-sonnet-4", "Claude"),
        ("hosted_vllm/Qwen/Qwen1.5-7B-Chat", "Qwen"),
        ("openai/qwen-max", "Qwen"),
        ("hosted_vllm/meta-llama/Llama-2-7b-chat-hf", "Llama"),
        ("hosted_vllm/lmsys/vicuna-13b-v1.5", "Llama"),
        ("hosted_vllm/mistralai/Mixtral-8x7B", "Mistral"),
        ("hosted_vllm/01-ai/Yi-34B", "Yi"),
        ("hosted_vllm/acme/my-own", None),
        ("hosted_vllm/acme/graphi-2", None),
    ],
)
def test_a_name_tells_its_family(model: str, family: str | None) -> None:
    assert family_of(model) == family


@pytest.mark.parametrize(
    ("teacher", "judge", "words"),
    [
        ("openai/gpt-3.5-turbo", "openai/gpt-4o", "of one family, GPT"),
        ("openai/gpt-4o", "openai/gpt-4o", "the same model"),
        ("hosted_vllm/acme/x", "hosted_vllm/acme/x", "the same model"),
    ],
)
def test_kin_are_named(teacher: str, judge: str, words: str) -> None:
    assert words in (shared_family(teacher, judge) or "")


@pytest.mark.parametrize(
    ("teacher", "judge"),
    [("openai/gpt-4o", "anthropic/claude-x"), ("hosted_vllm/a", "hosted_vllm/b"), ("lab/teacher", "lab/judge")],
)
def test_strangers_are_not(teacher: str, judge: str) -> None:
    assert shared_family(teacher, judge) is None
