"""What the judge is asked: one call for every order, or for every answer, of a match.

What stands between the tags of a prompt is somebody else's text. Where it holds one of those tags itself, the tag
is written with `&lt;`, so that no answer can end its own place and go on in the judge's voice.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tapir_exp.config import JudgeConfig, JudgeProtocol
from tapir_exp.core.records import BOTH_ORDERS, PresentationOrder
from tapir_exp.distillation.prompts import Prompt, load_prompt
from tapir_exp.llm.chat import ChatRequest, Message

TOP_LOGPROBS = 10
"""Tokens reported in place of the first, where preferences are read from log-probabilities."""
_TAG = re.compile(r"</(\w+)>")


@dataclass(frozen=True)
class ResponsePair:
    """Two responses to one instruction, and a response to check them against, where there is one."""

    id: str
    instruction: str
    teacher: str
    student: str
    reference: str | None = None


@dataclass(frozen=True)
class JudgeRequest:
    """One call, and which answers it shows."""

    order: PresentationOrder
    request: ChatRequest


def requests_for(match: ResponsePair, config: JudgeConfig) -> list[JudgeRequest]:
    """The calls that a match takes under the configured protocol, in a fixed sequence."""
    return [JudgeRequest(order, build_judge_request(match, order, config)) for order in presentation_orders(config)]


def presentation_orders(config: JudgeConfig) -> tuple[PresentationOrder, ...]:
    """What a verdict is put together from: two orders, one, or each answer alone."""
    if config.protocol is JudgeProtocol.single_score:
        return (PresentationOrder.TEACHER_ALONE, PresentationOrder.STUDENT_ALONE)
    return BOTH_ORDERS if config.swap_positions else (PresentationOrder.TEACHER_FIRST,)


def build_judge_request(match: ResponsePair, order: PresentationOrder, config: JudgeConfig) -> ChatRequest:
    """The call that shows the answers of a match in one order, or one of them alone."""
    return ChatRequest(
        messages=(Message(role="user", content=_prompt_of(match, order, config)),),
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_logprobs=TOP_LOGPROBS if config.protocol is JudgeProtocol.pair_logprobs else 0,
    )


def build_complexity_request(instruction: str, config: JudgeConfig) -> ChatRequest:
    """The call that asks how complex an instruction is."""
    text = _fill(load_prompt("judge/complexity"), {"instruction": instruction})
    message = Message(role="user", content=text)
    return ChatRequest(messages=(message,), max_tokens=config.max_tokens, temperature=config.temperature)


def judge_prompts(config: JudgeConfig) -> dict[str, str]:
    """The templates that the configured protocol fills; part of the key of what is made with them."""
    prompts = [_template_of(config), *([load_prompt("judge/reference")] if config.reference else [])]
    return {prompt.name: prompt.text for prompt in prompts}


def _prompt_of(match: ResponsePair, order: PresentationOrder, config: JudgeConfig) -> str:
    texts = {"teacher": match.teacher, "student": match.student}
    shown = [texts[owner] for owner in order.shown]
    fields = ("answer",) if len(shown) == 1 else ("first", "second")
    values = {"instruction": match.instruction, **dict(zip(fields, shown, strict=True))}
    return _fill(_template_of(config), values, _reference_of(match, config))


def _template_of(config: JudgeConfig) -> Prompt:
    return load_prompt(f"judge/{config.protocol.value}")


def _reference_of(match: ResponsePair, config: JudgeConfig) -> dict[str, str]:
    """The part of the prompt that shows the reference; empty where none is wanted or none is there."""
    if not config.reference or match.reference is None:
        return {"reference": ""}
    return {"reference": _fill(load_prompt("judge/reference"), {"reference": match.reference}) + "\n"}


def _fill(prompt: Prompt, foreign: Mapping[str, str], own: Mapping[str, str] | None = None) -> str:
    """The prompt with texts of others, whose tags are fenced off, and parts of our own, which stay as they are."""
    tags = "|".join(sorted({*_TAG.findall(prompt.text), *_TAG.findall(load_prompt("judge/reference").text)}))
    tag = re.compile(rf"<(?=\s*/?\s*(?:{tags})\b)", re.IGNORECASE)
    fenced = {field: tag.sub("&lt;", text) for field, text in foreign.items()}
    return prompt.fill(**fenced, **(own or {}))
