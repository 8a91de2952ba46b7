"""The teacher: it answers the seeds, writes new pairs after them, and refines its responses for each task type."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tapir_exp.config import TeacherConfig
from tapir_exp.core.errors import ReplyError
from tapir_exp.core.records import Answer, Example
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.prompts import load_prompt, style_of
from tapir_exp.llm.chat import ChatModel, ChatRequest, Message, Reply
from tapir_exp.llm.executor import Outcome, ask_all

T = TypeVar("T")

_TEXT = r"\s*(?!\s)((?:(?!</?(?:pair|instruction|response)>).)+?)\s*"  # never blank, and never beyond its own tags
_PAIR = re.compile(rf"<pair>\s*<instruction>{_TEXT}</instruction>\s*<response>{_TEXT}</response>\s*</pair>", re.DOTALL)
_RESPONSE = re.compile(rf"<response>{_TEXT}</response>", re.DOTALL)
_TAG = re.compile(r"</?(?:pair|instruction|response)>")


@dataclass(frozen=True)
class Draft:
    """A response that the teacher is to refine in the style of its task type."""

    id: str
    task: TaskType
    instruction: str
    response: str


@dataclass(frozen=True)
class Pair:
    """A new instruction with its response, as the teacher wrote them."""

    instruction: str
    response: str


@dataclass(frozen=True)
class Commission:
    """One expansion call: so many new pairs of a task type, after these examples.

    sample: tells repeated calls with the same examples apart, so that each is a draw of its own.
    """

    task: TaskType
    count: int
    examples: tuple[Example, ...]
    sample: int


def answer(examples: Sequence[Example], chat: ChatModel, config: TeacherConfig, label: str) -> list[Answer]:
    """The teacher's own response to each instruction, in order.

    Raises TooManyFailures where more than `config.max_failed` of them are missing.
    """
    requests = [answer_request(example, config) for example in examples]
    outcomes = _ask(chat, requests, read_text, config, label)
    return [_answer_of(example.id, outcome) for example, outcome in zip(examples, outcomes, strict=True)]


def refine(drafts: Sequence[Draft], chat: ChatModel, config: TeacherConfig, label: str) -> list[Answer]:
    """Each draft's response rewritten in the style its task type needs, in order.

    Raises TooManyFailures where more than `config.max_failed` of them are missing.
    """
    read = read_response_or_all if config.bare_refinements else read_response
    outcomes = _ask(chat, [refine_request(draft, config) for draft in drafts], read, config, label)
    return [_answer_of(draft.id, outcome) for draft, outcome in zip(drafts, outcomes, strict=True)]


def expand(
    commissions: Sequence[Commission], chat: ChatModel, config: TeacherConfig, label: str
) -> list[tuple[Pair, ...]]:
    """The new pairs of each commission, in order; none where the call failed.

    Raises TooManyFailures where more than `config.max_failed` of the calls brought nothing.
    """
    requests = [expand_request(commission, config) for commission in commissions]
    outcomes = _ask(chat, requests, read_pairs, config, label)
    return [outcome.value or () for outcome in outcomes]


def answer_request(example: Example, config: TeacherConfig) -> ChatRequest:
    """The call that asks for the teacher's own response to an instruction."""
    return _request(example.instruction, config)


def refine_request(draft: Draft, config: TeacherConfig) -> ChatRequest:
    """The call that asks for one response to be rewritten."""
    text = load_prompt("refine").fill(
        task=draft.task, instruction=draft.instruction, response=draft.response, style=style_of(draft.task).text
    )
    return _request(text, config)


def expand_request(commission: Commission, config: TeacherConfig) -> ChatRequest:
    """The call that asks for new pairs, drawn at the configured temperature."""
    shown = [
        f"<pair>\n<instruction>\n{example.instruction}\n</instruction>\n"
        f"<response>\n{example.response}\n</response>\n</pair>"
        for example in commission.examples
    ]
    examples = "\n\n".join(shown) or "(No pair of this type is at hand; write them at the level of a school leaver.)"
    text = load_prompt("expand").fill(task=commission.task, count=str(commission.count), examples=examples)
    return _request(text, config).model_copy(update={"temperature": config.temperature, "sample": commission.sample})


def read_text(reply: Reply) -> str:
    """The whole reply. Raises ReplyError where it was cut at its length limit or is empty."""
    if reply.finish_reason == "length":
        raise ReplyError("It was cut at the length limit; be briefer.")
    if not reply.text.strip():
        raise ReplyError("It is empty.")
    return reply.text.strip()


def read_response(reply: Reply) -> str:
    """What stands between the response tags. Raises ReplyError where the reply holds anything else."""
    found = _RESPONSE.fullmatch(read_text(reply))
    if found is None:
        raise ReplyError("It must be one <response>...</response> and nothing else.")
    return found[1]


def read_response_or_all(reply: Reply) -> str:
    """As `read_response`; the whole reply where it holds no tag at all."""
    return read_response(reply) if _TAG.search(reply.text) else read_text(reply)


def read_pairs(reply: Reply) -> tuple[Pair, ...]:
    """The pairs of an expansion. Raises ReplyError where the reply holds anything but whole pairs."""
    text = read_text(reply)
    if _PAIR.sub("", text).strip():
        raise ReplyError("It must consist of whole <pair>...</pair> blocks in the form given, and nothing else.")
    return tuple(Pair(instruction, response) for instruction, response in _PAIR.findall(text))


def _request(text: str, config: TeacherConfig) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), max_tokens=config.max_tokens)


def _ask(
    chat: ChatModel, requests: Sequence[ChatRequest], parse: Callable[[Reply], T], config: TeacherConfig, label: str
) -> list[Outcome[T]]:
    return ask_all(chat, requests, parse, label=label, concurrency=config.llm.concurrency, max_failed=config.max_failed)


def _answer_of(row: str, outcome: Outcome[str]) -> Answer:
    return Answer(id=row, text=outcome.value, failure=outcome.failure)
