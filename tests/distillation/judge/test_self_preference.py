"""Judge and teacher of the same family are found by their names; models of the lab have no family."""

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
def test_family_of_model_name(model: str, family: str | None) -> None:
    assert family_of(model) == family


@pytest.mark.parametrize(
    ("teacher", "judge", "expected"),
    [
        ("openai/gpt-3.5-turbo", "openai/gpt-4o", "the same family, GPT"),
        ("openai/gpt-4o", "openai/gpt-4o", "the same model"),
        ("hosted_vllm/acme/x", "hosted_vllm/acme/x", "the same model"),
    ],
)
def test_shared_family_names_what_is_shared(teacher: str, judge: str, expected: str) -> None:
    assert expected in (shared_family(teacher, judge) or "")


@pytest.mark.parametrize(
    ("teacher", "judge"),
    [("openai/gpt-4o", "anthropic/claude-x"), ("hosted_vllm/a", "hosted_vllm/b"), ("lab/teacher", "lab/judge")],
)
def test_shared_family_of_different_families_is_none(teacher: str, judge: str) -> None:
    assert shared_family(teacher, judge) is None
