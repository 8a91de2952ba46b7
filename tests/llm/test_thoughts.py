"""Thoughts of reasoning models: which text is the answer, and what the client makes of them."""

from typing import Any

import pytest
from aiohttp import web
from calls import failure, one
from loopback import Responder, Server, completion, text

from tapir_exp.config import Reasoning
from tapir_exp.llm.failures import FailureKind
from tapir_exp.llm.ledger import Ledger
from tapir_exp.llm.thoughts import split_thoughts

TEMPLATES = {
    "DeepSeek-R1, QwQ": "<think>\nhm\n</think>\n\nA",
    "opening tag in the prompt": "hm\n</think>\n\nA",
    "without a line break": "hm</think>A",
    "capitals": "<THINK>hm</THINK> A",
    "two blocks": "<thinking>h</thinking><think>m</think>A",
    "nested": "<think>h <think>m</think> n</think>A",
    "closed twice": "<think>hm</think>\n</think>A",
    "later": "A\n<think>hm</think>",
    "Magistral": "[THINK]hm[/THINK]A",
    "Kimi": "◁think▷hm◁/think▷A",
    "gpt-oss": "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>A<|return|>",
    "Sky-T1": "<|begin_of_thought|>hm<|end_of_thought|>\n<|begin_of_solution|>A<|end_of_solution|>",
    "Seed-OSS": "<seed:think>hm</seed:think>A",
    "Command A": "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>A<|END_RESPONSE|>",
    "MedGemma": "<unused94>thought\nhm<unused95>A",
    "prompted": "<reasoning>hm</reasoning>\nA",
    "draft in thoughts": "<think><response>no</response></think>\nA",
}


@pytest.mark.parametrize("reply", TEMPLATES.values(), ids=TEMPLATES)
def test_answer_is_what_follows_thoughts(reply: str) -> None:
    thoughts, answer = split_thoughts(reply)
    assert answer == "A"
    assert thoughts


@pytest.mark.parametrize("reply", ["<think>\nhm, and", "<think>hm</think>\n", "A\n<think>hm"])
def test_thoughts_never_join_the_answer(reply: str) -> None:
    assert "hm" not in split_thoughts(reply)[1]


@pytest.mark.parametrize(
    "reply",
    [
        "",
        " A \n",
        "In HTML, `<think>` is closed by `</think>`.",
        'He wrote "</think>" and left.',
        "```xml\n<think>\nhm\n</think>\n```",
        "Use the <think> tag in prose.",
        "&lt;think&gt;hm&lt;/think&gt;",
        "<response>\nA\n</response>",
        "I think, therefore I am.",
    ],
)
def test_reply_without_thoughts_is_unchanged(reply: str) -> None:
    assert split_thoughts(reply) == ("", reply)


def test_block_of_any_length_is_read_in_no_time() -> None:
    assert split_thoughts("A\n<think>hm</think>\n" * 5_000)[1] == ""
    assert split_thoughts("<think>" * 20_000)[1] == ""


def beside(content: Any, **fields: Any) -> Responder:
    body = completion(content)
    body["choices"][0]["message"] |= fields
    return lambda _: web.json_response(body)


PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "A"}]
SHAPES = {
    "inside": text("<think>\nhm\n</think>\n\nA"),
    "vLLM": beside("A", reasoning_content="hm"),
    "OpenRouter": beside("A", reasoning="hm"),
    "Mistral": beside(PARTS),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_reasoning_setting_needs_no_second_call(make: Any, server: Server, shape: str) -> None:
    server.script["a"] = [SHAPES[shape]]
    assert one(make(), "a").text == "A"
    assert one(make(reasoning=Reasoning.keep), "a").text == "<think>\nhm\n</think>\n\nA"
    refused = failure(make(reasoning=Reasoning.refuse), "a")
    assert refused.kind is FailureKind.THOUGHTS
    assert "llm.reasoning=refuse" in refused.detail
    assert len(server.seen) == 1


@pytest.mark.parametrize("reply", [text("<think>hm"), text("<think>hm</think>\n"), beside(None, reasoning="hm")])
def test_thoughts_without_answer_are_an_empty_reply(make: Any, server: Server, reply: Responder) -> None:
    server.script["a"] = [reply, text("A")]
    assert one(make(), "a").text == "A"
    server.script["b"] = [reply]
    assert failure(make(max_attempts=1), "b").kind is FailureKind.EMPTY


def test_thoughts_cut_at_limit_are_a_cut_reply(make: Any, server: Server) -> None:
    server.script["a"] = [text("<think>hm, and", "length")]
    cut = one(make(), "a")
    assert (cut.text, cut.finish_reason) == ("", "length")


def test_reasoning_tokens_give_room_and_renew_cut_replies(make: Any, server: Server) -> None:
    server.script["a"] = [text("<think>hm, and", "length"), text("<think>hm</think>A")]
    one(make(), "a")
    assert one(make(reasoning_tokens=100), "a").text == "A"
    assert [body["max_tokens"] for body in server.bodies] == [20, 120]
    assert one(make(reasoning_tokens=100), "a").text == "A"
    assert len(server.seen) == 2


def test_reasoning_tokens_are_paid(make: Any, server: Server, ledger: Ledger) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 123}
    server.script["a"] = [lambda _: web.json_response({**completion("A"), "usage": usage})]
    assert one(make(), "a").usage.completion_tokens == 103
    assert ledger.spent_by_scope().tokens == 123


def test_identity_has_reasoning_only_if_kept(make: Any) -> None:
    assert "reasoning" not in make().identity()
    assert make(reasoning=Reasoning.keep).identity()["reasoning"] == "keep"
