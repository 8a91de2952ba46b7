"""The teacher: answers the seeds, writes new pairs from examples, and refines responses for each task type."""

import re
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tapir_exp.config import TeacherConfig
from tapir_exp.core.errors import ReplyError
from tapir_exp.core.records import Example, Response
from tapir_exp.core.stored_rows import LazySequence, in_order
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.prompts import load_prompt, refinement_style
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion, Message
from tapir_exp.llm.executor import OnResult, RequestResult, run_each, run_requests

T = TypeVar("T")

# The text of a tag: never blank, and never beyond the next tag of the form.
_TEXT = r"\s*(?!\s)((?:(?!</?(?:pair|instruction|response)>).)+?)\s*"
_PAIR = re.compile(rf"<pair>\s*<instruction>{_TEXT}</instruction>\s*<response>{_TEXT}</response>\s*</pair>", re.DOTALL)
_RESPONSE = re.compile(rf"<response>{_TEXT}</response>", re.DOTALL)
_TAG = re.compile(r"</?(?:pair|instruction|response)>")

# The text of a ReplyError is sent to the teacher with the second try. So it is part of a cache key: do not edit it.


@dataclass(frozen=True)
class RefinementRequest:
    """A response that the teacher is to rewrite in the style of its task type."""

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
    """One call for new pairs.

    Attributes:
        task: Task type of the new pairs.
        count: Number of new pairs.
        examples: Pairs to show to the teacher.
        sample: Number of the draw. Calls with the same examples and different numbers are different draws.
    """

    task: TaskType
    count: int
    examples: tuple[Example, ...]
    sample: int


def respond(
    examples: Sequence[Example],
    chat: ChatModel,
    config: TeacherConfig,
    label: str,
    on_result: OnResult | None = None,
    responses: MutableMapping[int, Response] | None = None,
) -> Sequence[Response]:
    """Return the teacher's response to each instruction, in order.

    Args:
        examples: The instructions.
        chat: The teacher.
        config: The settings of the teacher.
        label: Name of the progress bar and of error messages.
        on_result: Called with the index and the result of each request.
        responses: Gets the responses, by the index of their instruction; by default they stay in memory.

    Raises:
        TooManyFailures: If more than `config.max_failure_rate` of them failed.
    """
    responses = {} if responses is None else responses

    def add(index: int, result: RequestResult[str]) -> None:
        responses[index] = _to_response(examples[index].id, result)
        if on_result is not None:
            on_result(index, result)

    run_each(
        chat,
        LazySequence(len(examples), lambda index: build_response_request(examples[index], config)),
        parse_text,
        add,
        label=label,
        concurrency=config.llm.most_in_flight,
        max_failure_rate=config.max_failure_rate,
    )
    return in_order(responses, len(examples))


def refine(drafts: Sequence[RefinementRequest], chat: ChatModel, config: TeacherConfig, label: str) -> list[Response]:
    """Return each response rewritten in the style of its task type, in order.

    Raises:
        TooManyFailures: If more than `config.max_failure_rate` of them failed.
    """
    parse = parse_response_or_text if config.allow_untagged_refinements else parse_response
    results = _run(chat, [build_refinement_request(draft, config) for draft in drafts], parse, config, label)
    return [_to_response(draft.id, result) for draft, result in zip(drafts, results, strict=True)]


def expand(
    calls: Sequence[ExpansionRequest],
    chat: ChatModel,
    config: TeacherConfig,
    label: str,
    on_instruction: Callable[[str], None] | None = None,
) -> list[tuple[InstructionPair, ...]]:
    """Return the new pairs of each call, in order; none for a call that failed.

    Args:
        calls: The calls.
        chat: The teacher.
        config: The settings of the teacher.
        label: Name of the progress bar and of error messages.
        on_instruction: Called with every new instruction as soon as its reply is there, in any order.

    Raises:
        TooManyFailures: If more than `config.max_failure_rate` of the calls failed.
    """

    def report(_: int, result: RequestResult[tuple[InstructionPair, ...]]) -> None:
        for pair in result.value or ():
            if on_instruction is not None:
                on_instruction(pair.instruction)

    results = _run(chat, [build_expansion_request(call, config) for call in calls], parse_pairs, config, label, report)
    return [result.value or () for result in results]


def build_response_request(example: Example, config: TeacherConfig) -> ChatRequest:
    """Return the call for the teacher's response to an instruction."""
    return _request(example.instruction, config)


def build_refinement_request(draft: RefinementRequest, config: TeacherConfig) -> ChatRequest:
    """Return the call that rewrites one response."""
    text = load_prompt("refine").fill(
        task=draft.task, instruction=draft.instruction, response=draft.response, style=refinement_style(draft.task).text
    )
    return _request(text, config)


def build_expansion_request(call: ExpansionRequest, config: TeacherConfig) -> ChatRequest:
    """Return the call for new pairs, sampled at the configured temperature."""
    pairs = [
        f"<pair>\n<instruction>\n{example.instruction}\n</instruction>\n"
        f"<response>\n{example.response}\n</response>\n</pair>"
        for example in call.examples
    ]
    # The text for no examples is part of the prompt, so of cache keys as well.
    examples = "\n\n".join(pairs) or "(No pair of this type is at hand; write them at the level of a school leaver.)"
    text = load_prompt("expand").fill(task=call.task, count=str(call.count), examples=examples)
    return _request(text, config).model_copy(update={"temperature": config.temperature, "sample": call.sample})


def parse_text(completion: Completion) -> str:
    """Return the whole reply.

    Raises:
        ReplyError: If the reply was cut at its length limit or is empty.
    """
    if completion.finish_reason == "length":
        raise ReplyError("It was cut at the length limit; be briefer.")
    if not completion.text.strip():
        raise ReplyError("It is empty.")
    return completion.text.strip()


def parse_response(completion: Completion) -> str:
    """Return the text between the response tags.

    Raises:
        ReplyError: If the reply contains anything else.
    """
    match = _RESPONSE.fullmatch(parse_text(completion))
    if match is None:
        raise ReplyError("It must be one <response>...</response> and nothing else.")
    return match[1]


def parse_response_or_text(completion: Completion) -> str:
    """Parse as `parse_response` does; return the whole reply if it has no tag at all."""
    return parse_response(completion) if _TAG.search(completion.text) else parse_text(completion)


def parse_pairs(completion: Completion) -> tuple[InstructionPair, ...]:
    """Return the pairs of an expansion.

    Raises:
        ReplyError: If the reply contains anything but whole pairs.
    """
    text = parse_text(completion)
    # Strict on purpose: text between pairs often means a pair that was cut or written in another form.
    if _PAIR.sub("", text).strip():
        raise ReplyError("It must consist of whole <pair>...</pair> blocks in the form given, and nothing else.")
    return tuple(InstructionPair(instruction, response) for instruction, response in _PAIR.findall(text))


def _request(text: str, config: TeacherConfig) -> ChatRequest:
    return ChatRequest(messages=(Message(role="user", content=text),), max_tokens=config.max_tokens)


def _run(
    chat: ChatModel,
    requests: Sequence[ChatRequest],
    parse: Callable[[Completion], T],
    config: TeacherConfig,
    label: str,
    on_result: OnResult | None = None,
) -> list[RequestResult[T]]:
    return run_requests(
        chat,
        requests,
        parse,
        label=label,
        concurrency=config.llm.most_in_flight,
        max_failure_rate=config.max_failure_rate,
        on_result=on_result,
    )


def _to_response(row_id: str, result: RequestResult[str]) -> Response:
    return Response(id=row_id, text=result.value, failure=result.failure)
