"""Requests to the judge: one call for every presentation of a pair, which is an order or one response, and a sample.

Responses are untrusted text inside our prompt. A tag of the prompt that occurs in them is written with `&lt;`. So no
response can close its section and continue as the judge.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tapir_exp.config import JudgeConfig, JudgeProtocol
from tapir_exp.core.records import BOTH_ORDERS, PresentationOrder, Response
from tapir_exp.distillation.judge.expected import POSITIONS
from tapir_exp.distillation.prompts import Prompt, load_prompt
from tapir_exp.llm.chat import ChatRequest, Message
from tapir_exp.llm.panel import for_member

MIN_TOKENS = {JudgeProtocol.pair_expected: 4}
"""Least length limit of a protocol, in tokens: two digits, and a token for the space between them."""
_TAG = re.compile(r"</(\w+)>")


@dataclass(frozen=True)
class Notes:
    """What a judge wrote about an instruction before it got the responses.

    Attributes:
        metrics: What to check; None if the judge writes none.
        reference: Its own response; None if it writes none.
        failure: Reason why a note is missing; None if there are all.
    """

    metrics: str | None = None
    reference: str | None = None
    failure: str | None = None


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
        notes: The notes of each judge of the panel, or of the only judge; empty if none were written.
    """

    id: str
    instruction: str
    response_a: str
    response_b: str
    reference: str | None = None
    notes: tuple[Notes, ...] = ()


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
class Presentation:
    """One of the calls about a pair.

    Attributes:
        order: Which responses it shows, and in which order.
        sample: Number of the sample.
        member: Number of the judge in the panel.
        judge: Name of that judge; empty if there is no panel.
        positions: Tokens whose log-probabilities are stored, if they are requested.
    """

    order: PresentationOrder
    sample: int = 0
    member: int = 0
    judge: str = ""
    positions: int = 1


@dataclass(frozen=True)
class JudgeRequest:
    """A call about a pair, and what it shows."""

    shown: Presentation
    request: ChatRequest

    @property
    def order(self) -> PresentationOrder:
        """Return which responses it shows, and in which order."""
        return self.shown.order


def requests_for(pair: ResponsePair, config: JudgeConfig) -> list[JudgeRequest]:
    """Return the calls that a pair takes under the configured protocol, in a fixed sequence."""
    return [JudgeRequest(shown, build_judge_request(pair, shown, config)) for shown in presentations(config)]


def presentations(config: JudgeConfig) -> tuple[Presentation, ...]:
    """Return the calls that make a verdict: for each judge of a panel, each order, and each sample."""
    expected = config.protocol in (JudgeProtocol.pair_expected, JudgeProtocol.single_expected)
    return tuple(
        Presentation(order, sample, member, judge, POSITIONS if expected else 1)
        for member, judge in enumerate(config.judge_names)
        for order in presentation_orders(config)
        for sample in range(config.samples)
    )


def presentation_orders(config: JudgeConfig) -> tuple[PresentationOrder, ...]:
    """Return the orders that make a verdict: both orders, one order, or each response alone."""
    if config.protocol.alone:
        return (PresentationOrder.TEACHER_ALONE, PresentationOrder.STUDENT_ALONE)
    return BOTH_ORDERS if config.swap_positions else (PresentationOrder.TEACHER_FIRST,)


def build_judge_request(
    pair: ResponsePair, shown: Presentation | PresentationOrder, config: JudgeConfig
) -> ChatRequest:
    """Return the call that shows the responses of a pair in one order, or one of them alone.

    Args:
        pair: The responses.
        shown: What to show, or only the order, for the first sample of the only judge.
        config: The settings of the judge.

    Raises:
        ValueError: If the judge writes notes, and the pair has none.
    """
    if config.writes_notes and not pair.notes:
        raise ValueError("a judge with metrics or its own reference needs pairs with notes; see `write_notes`")
    if isinstance(shown, PresentationOrder):
        shown = Presentation(shown)
    texts = {"teacher": pair.response_a, "student": pair.response_b}
    responses = [texts[owner] for owner in shown.order.shown]
    # The names of the template's fields, which are not those of the responses' authors.
    fields = ("answer",) if len(responses) == 1 else ("first", "second")
    values = {"instruction": pair.instruction, **dict(zip(fields, responses, strict=True))}
    notes = pair.notes[shown.member] if config.writes_notes else Notes()
    prompt = _fill(_template_for(config), values, {"reference": _sections(pair, notes, config)}, _notes_tags(config))
    request = ChatRequest(
        messages=(Message(role="user", content=prompt),),
        max_tokens=max(config.max_tokens, MIN_TOKENS.get(config.protocol, 1)),
        temperature=config.temperature,
        sample=shown.sample,
        top_logprobs=config.top_logprobs if config.protocol.reads_logprobs else 0,
    )
    return for_member(request, shown.member)


def build_metrics_request(instruction: str, config: JudgeConfig) -> ChatRequest:
    """Return the call that asks what to check for an instruction."""
    text = _fill(load_prompt("judge/write_metrics"), {"instruction": instruction})
    return _notes_request(text, config)


def build_reference_request(instruction: str, config: JudgeConfig) -> ChatRequest:
    """Return the call in which the judge responds to an instruction itself: the plain instruction."""
    return _notes_request(instruction, config)


def _notes_request(text: str, config: JudgeConfig) -> ChatRequest:
    # Greedy: the notes of an instruction are the same for every sample of its verdict.
    return ChatRequest(messages=(Message(role="user", content=text),), max_tokens=config.notes_max_tokens)


def build_complexity_request(instruction: str, config: JudgeConfig) -> ChatRequest:
    """Return the call that asks for the complexity of an instruction."""
    text = _fill(load_prompt("judge/complexity"), {"instruction": instruction})
    message = Message(role="user", content=text)
    return ChatRequest(messages=(message,), max_tokens=config.max_tokens, temperature=config.temperature)


def judge_prompts(config: JudgeConfig) -> dict[str, str]:
    """Return the templates of the configured protocol by name; they are part of the key of every verdict."""
    names = [
        *(["judge/reference"] if config.reference or config.own_reference else []),
        *(["judge/write_metrics", "judge/metrics"] if config.metrics else []),
    ]
    return {prompt.name: prompt.text for prompt in [_template_for(config), *map(load_prompt, names)]}


def _template_for(config: JudgeConfig) -> Prompt:
    return load_prompt(f"judge/{config.protocol.value}")


def _sections(pair: ResponsePair, notes: Notes, config: JudgeConfig) -> str:
    """Return the sections of the prompt with the reference and the metrics; empty if there is neither."""
    given = pair.reference if config.reference else None
    reference = notes.reference if given is None else given
    # The sections become our own text, so the tags of the prompt around them are escaped here.
    tags = (*_TAG.findall(_template_for(config).text), *_notes_tags(config))
    return "".join(
        _fill(load_prompt(name), {field: text}, tags=tags) + "\n"
        for name, field, text in (
            ("judge/reference", "reference", reference),
            ("judge/metrics", "metrics", notes.metrics),
        )
        if text is not None
    )


def _notes_tags(config: JudgeConfig) -> tuple[str, ...]:
    return tuple(_TAG.findall(load_prompt("judge/metrics").text)) if config.metrics else ()


def _fill(
    prompt: Prompt, foreign: Mapping[str, str], own: Mapping[str, str] | None = None, tags: Sequence[str] = ()
) -> str:
    """Return the filled prompt: tags in untrusted texts are escaped, our own texts stay as they are.

    Args:
        prompt: The template.
        foreign: Texts of models and of data, by field.
        own: Texts of this package, by field.
        tags: Further tags to escape.
    """
    # The tags of the reference section are escaped in every prompt, since any prompt may contain that section.
    escaped_tags = {*_TAG.findall(prompt.text), *_TAG.findall(load_prompt("judge/reference").text), *tags}
    tag = re.compile(rf"<(?=\s*/?\s*(?:{'|'.join(sorted(escaped_tags))})\b)", re.IGNORECASE)
    escaped = {field: tag.sub("&lt;", text) for field, text in foreign.items()}
    return prompt.fill(**escaped, **(own or {}))
