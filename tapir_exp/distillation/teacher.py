"""The teacher: it answers the seeds, writes new pairs after them, and refines its responses for each task type."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tapir_exp.config import TeacherConfig
from tapir_exp.core.errors import ReplyError
from tapir_exp.core.records import Example, Response
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.prompts import load_prompt, refinement_style
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion, Message
from tapir_exp.llm.executor import RequestResult, run_requests

T = TypeVar("T")

_TEXT = r"\s*(?!\s)((?:(?!</?(?:pair|instruction|response)>).)+?)\s*"  # never blank, and never beyond its own tags
_PAIR = re.compile(rf"<pair>\s*<instruction>{_TEXT}</instruction>\s*<response>{_TEXT}</response>\s*</pair>", re.DOTALL)
_RESPONSE = re.compile(rf"<response>{_TEXT}</response>", re.DOTALL)
_TAG = re.compile(r"</?(?:pair|instruction|response)>")


@dataclass(frozen=True)
class RefinementRequest:
    """A response that the teacher is to refine in the style of its task type."""

    id: str
    task: TaskType
    instruction: str
    response: str


@dataclass(frozen=True)
class InstructionPair:
    """A new instruction with its response, as the teacher wrote them."""

    instruction: str
    response: str


@dataclass(frozen=True)
class ExpansionRequest:
    """One expansion call: so many new pairs of a task type, after these examples.

    sample: tells repeated calls with the same examples apart, so that each is a draw of its own.
    """

    task: TaskType
    count: int
    examples: tuple[Example, ...]
    sample: int


def respond(examples: Sequence[Example], chat: ChatModel, config: TeacherConfig, label: str) -> list[Response]:
    """The teacher's own response to each instruction, in order.

    Raises TooManyFailures where more than `config.max_failure_rate` of them are missing.
    """
    requests = [build_response_request(example, config) for example in examples]
    outcomes = _ask(chat, requests, parse_text, config, label)
    return [_answer_of(example.id, outcome) for example, outcome in zip(examples, outcomes, strict=True)]


def refine(drafts: Sequence[RefinementRequest], chat: ChatModel, config: TeacherConfig, label: str) -> list[Response]:
    """Each draft's response rewritten in the style its task type needs, in order.

    Raises TooManyFailures where more than `config.max_failure_rate` of them are missing.
    """
    read = parse_response_or_text if config.allow_untagged_refinements else parse_response
    outcomes = _ask(chat, [build_refinement_request(draft, config) for draft in drafts], read, config, label)
    return [_answer_of(draft.id, outcome) for draft, outcome in zip(drafts, outcomes, strict=True)]


def expand(
    commissions: Sequence[ExpansionRequest], chat: ChatModel, config: TeacherConfig, label: str
) -> list[tuple[InstructionPair, ...]]:
    """The new pairs of each commission, in order; none where the call failed.

    Raises TooManyFailures where more than `config.max_failure_rate` of the calls brought nothing.
    """
    requests = [build_expansion_request(commission, config) for commission in commissions]
    outcomes = _ask(chat, requests, parse_pairs, config, label)
    return [outcome.value or () for outcome in outcomes]


def build_response_request(example: Example, config: TeacherConfig) -> ChatRequest:
    """The call that asks for the teacher's own response to an instruction."""
    return _request(example.instruction, config)


def build_refinement_request(draft: RefinementRequest, config: TeacherConfig) -> ChatRequest:
    """The call that asks for one response to be rewritten."""
    text = load_prompt("refine").fill(
        task=draft.task, instruction=draft.instruction, response=draft.response, style=refinement_style(draft.task).text
    )
    return _request(text, config)


def build_expansion_request(commission: ExpansionRequest, config: TeacherConfig) -> ChatRequest:
    """The call that asks for new pairs, drawn at the configured temperature."""
    shown = [
        f"<pair>\n<instruction>\n{example.instruction}\n</instruction>\n"
        f"<response>\n{example.response}\n</response>\n</pair>"
        for example in commission.examples
    ]
    examples = "\n\n".join(shown) or "(No pair of this type is at hand; write them at the level of a school leaver.)"
    text = load_prompt("expand").fill(task=commission.task, count=str(commission.count), examples=examples)
    return _request(text, config).model_copy(update={"temperature": config.temperature, "sample": commission.sample})


def parse_text(reply: Completion) -> str:
    """The whole reply. Raises ReplyError where it was cut at its length limit or is empty."""
    if reply.finish_reason == "length":
        raise ReplyError("It was cut at the length limit; be briefer.")
    if not reply.text.strip():
        raise ReplyError("It is empty.")
    return reply.text.strip()


def parse_response(reply: Completion) -> str:
    """What stands between the response tags. Raises ReplyError where the reply holds anything else."""
    found = _RESPONSE.fullmatch(parse_text(reply))
    if found is None:
        raise ReplyError("It must be one <response>...</response> and nothing else.")
    return found[1]


def parse_response_or_text(reply: Completion) -> str:
    """As `parse_response`; the whole reply where it holds no tag at all."""
    return parse_response(reply) if _TAG.search(reply.text) else parse_text(reply)


def parse_pairs(reply: Completion) -> tuple[InstructionPair, ...]:
    """The pairs of an expansion. Raises ReplyError where the reply holds anything but whole pairs."""
    text = parse_text(reply)
    if _PAIR.sub("", text).strip():
        raise ReplyError("It must consist of whole <pair>...</pair> blocks in the form given, and nothing else.")
    return tuple(InstructionPair(instruction, response) for instruction, response in _PAIR.findall(text))


def _request(text: str, config: TeacherConfig) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), max_tokens=config.max_tokens)


def _ask(
    chat: ChatModel,
    requests: Sequence[ChatRequest],
    parse: Callable[[Completion], T],
    config: TeacherConfig,
    label: str,
) -> list[RequestResult[T]]:
    return run_requests(
        chat, requests, parse, label=label, concurrency=config.llm.concurrency, max_failure_rate=config.max_failure_rate
    )


def _answer_of(row: str, outcome: RequestResult[str]) -> Response:
    return Response(id=row, text=outcome.value, failure=outcome.failure)
