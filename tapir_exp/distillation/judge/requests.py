"""Requests to the judge: one call for every presentation order, or for every response, of a pair.

Responses are foreign text inside our prompt. A tag of the prompt that occurs in them is written with `&lt;`, so that no
response can close its section and continue in the judge's voice.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tapir_exp.config import JudgeConfig, JudgeProtocol
from tapir_exp.core.records import BOTH_ORDERS, PresentationOrder, Response
from tapir_exp.distillation.prompts import Prompt, load_prompt
from tapir_exp.llm.chat import ChatRequest, Message

TOP_LOGPROBS = 10
"""Number of candidates for the first token that `pair_logprobs` requests with their log-probabilities."""
_TAG = re.compile(r"</(\w+)>")


@dataclass(frozen=True)
class ResponsePair:
    """Two responses to one instruction.

    Attributes:
        id: Id of the instruction.
        instruction: The instruction.
        response_a: The response that a verdict scores as the teacher's; for held-out instructions the previous
            student's.
        response_b: The response that a verdict scores as the student's.
        reference: A response to check both against; None if there is none.
    """

    id: str
    instruction: str
    response_a: str
    response_b: str
    reference: str | None = None


@dataclass(frozen=True)
class PendingPair:
    """A `ResponsePair` without its second response, which is still to be generated."""

    id: str
    instruction: str
    response_a: str
    reference: str | None = None

    def with_response(self, response: Response) -> ResponsePair:
        """Return the pair with a response of the student; a failed one is shown as an empty text."""
        return ResponsePair(self.id, self.instruction, self.response_a, response.text or "", self.reference)


@dataclass(frozen=True)
class JudgeRequest:
    """A call about a pair, and which responses it shows in which order."""

    order: PresentationOrder
    request: ChatRequest


def requests_for(pair: ResponsePair, config: JudgeConfig) -> list[JudgeRequest]:
    """Return the calls that a pair takes under the configured protocol, in a fixed sequence."""
    return [JudgeRequest(order, build_judge_request(pair, order, config)) for order in presentation_orders(config)]


def presentation_orders(config: JudgeConfig) -> tuple[PresentationOrder, ...]:
    """Return the presentations that make a verdict: both orders, one order, or each response alone."""
    if config.protocol is JudgeProtocol.single_score:
        return (PresentationOrder.TEACHER_ALONE, PresentationOrder.STUDENT_ALONE)
    return BOTH_ORDERS if config.swap_positions else (PresentationOrder.TEACHER_FIRST,)


def build_judge_request(pair: ResponsePair, order: PresentationOrder, config: JudgeConfig) -> ChatRequest:
    """Return the call that shows the responses of a pair in one order, or one of them alone."""
    texts = {"teacher": pair.response_a, "student": pair.response_b}
    shown = [texts[owner] for owner in order.shown]
    # The names of the template's fields, which are not those of the responses' authors.
    fields = ("answer",) if len(shown) == 1 else ("first", "second")
    values = {"instruction": pair.instruction, **dict(zip(fields, shown, strict=True))}
    prompt = _fill(_template_for(config), values, _reference_section(pair, config))
    return ChatRequest(
        messages=(Message(role="user", content=prompt),),
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_logprobs=TOP_LOGPROBS if config.protocol is JudgeProtocol.pair_logprobs else 0,
    )


def build_complexity_request(instruction: str, config: JudgeConfig) -> ChatRequest:
    """Return the call that asks for the complexity of an instruction."""
    text = _fill(load_prompt("judge/complexity"), {"instruction": instruction})
    message = Message(role="user", content=text)
    return ChatRequest(messages=(message,), max_tokens=config.max_tokens, temperature=config.temperature)


def judge_prompts(config: JudgeConfig) -> dict[str, str]:
    """Return the templates of the configured protocol by name; they are part of the key of every verdict."""
    prompts = [_template_for(config), *([load_prompt("judge/reference")] if config.reference else [])]
    return {prompt.name: prompt.text for prompt in prompts}


def _template_for(config: JudgeConfig) -> Prompt:
    return load_prompt(f"judge/{config.protocol.value}")


def _reference_section(pair: ResponsePair, config: JudgeConfig) -> dict[str, str]:
    """Return the section of the prompt that shows the reference; empty if none is wanted or there is none."""
    if not config.reference or pair.reference is None:
        return {"reference": ""}
    return {"reference": _fill(load_prompt("judge/reference"), {"reference": pair.reference}) + "\n"}


def _fill(prompt: Prompt, foreign: Mapping[str, str], own: Mapping[str, str] | None = None) -> str:
    """Return the filled prompt: tags in foreign texts are escaped, our own texts stay as they are."""
    # The tags of the reference section are escaped in every prompt, since any prompt may contain that section.
    tags = "|".join(sorted({*_TAG.findall(prompt.text), *_TAG.findall(load_prompt("judge/reference").text)}))
    tag = re.compile(rf"<(?=\s*/?\s*(?:{tags})\b)", re.IGNORECASE)
    escaped = {field: tag.sub("&lt;", text) for field, text in foreign.items()}
    return prompt.fill(**escaped, **(own or {}))
