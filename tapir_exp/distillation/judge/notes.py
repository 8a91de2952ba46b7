"""What a judge writes about an instruction before it gets the responses: what to check, and a response of its own.

Both follow LLMBar (Zeng et al., 2024). Its evaluators judge better with metrics that they write for the instruction,
and with an answer of their own as the reference. Each takes one call per instruction, whatever the number of its
orders, samples and rows. Notes depend on the instruction alone, so that the verdicts of all rounds share them in the
cache.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tapir_exp.config import JudgeConfig
from tapir_exp.core.errors import ReplyError
from tapir_exp.core.stored_rows import LazySequence
from tapir_exp.distillation.judge.requests import (
    Notes,
    ResponsePair,
    build_metrics_request,
    build_reference_request,
)
from tapir_exp.llm.chat import ChatModel, ChatRequest, Completion
from tapir_exp.llm.executor import RequestResult, run_requests
from tapir_exp.llm.panel import for_member


@dataclass(frozen=True)
class _Note:
    """A note to write: for which instruction, by which judge, and its name in `Notes`."""

    instruction: str
    member: int
    name: str


def write_notes(
    pairs: Sequence[ResponsePair], chat: ChatModel, config: JudgeConfig, label: str
) -> Sequence[ResponsePair]:
    """Return the pairs with the notes of every judge; the same pairs if the judge writes none, or they have them.

    All notes are in memory: about 1 kB for each different instruction.

    Args:
        pairs: What to judge.
        chat: The judge.
        config: The settings of the judge.
        label: Name of the progress bar and of error messages.

    Raises:
        TooManyFailures: If more than `config.max_failure_rate` of the notes failed.
    """
    if not config.writes_notes or not pairs or pairs[0].notes:
        return pairs
    wanted = list(dict.fromkeys(note for pair in pairs for note in _notes_of(pair, config)))
    results = run_requests(
        chat,
        [_request(note, config) for note in wanted],
        parse_note,
        label=f"{label}: notes",
        concurrency=config.most_in_flight,
        max_failure_rate=config.max_failure_rate,
    )
    found = dict(zip(wanted, results, strict=True))

    def noted(number: int) -> ResponsePair:
        pair = pairs[number]
        members = range(len(config.models))
        return replace(pair, notes=tuple(_combine(pair, member, found, config) for member in members))

    return LazySequence(len(pairs), noted)


def count_notes(config: JudgeConfig, *, has_reference: bool) -> int:
    """Return the calls that the notes of an instruction take."""
    return len(list(_notes_of(ResponsePair("", "", "", "", "" if has_reference else None), config)))


def parse_note(completion: Completion) -> str:
    """Return the text of a note. One that was cut at the length limit is usable, without its last line if it has more.

    Raises:
        ReplyError: If it is empty.
    """
    text = completion.text.strip()
    if completion.finish_reason == "length" and "\n" in text:
        text = text.rpartition("\n")[0].strip()
    if not text:
        raise ReplyError("It is empty.")
    return text


def _notes_of(pair: ResponsePair, config: JudgeConfig) -> Iterator[_Note]:
    for member in range(len(config.models)):
        if config.metrics:
            yield _Note(pair.instruction, member, "metrics")
        if config.own_reference and not (config.reference and pair.reference is not None):
            yield _Note(pair.instruction, member, "reference")


def _request(note: _Note, config: JudgeConfig) -> ChatRequest:
    build = build_metrics_request if note.name == "metrics" else build_reference_request
    return for_member(build(note.instruction, config), note.member)


def _combine(pair: ResponsePair, member: int, found: Mapping[_Note, RequestResult[str]], config: JudgeConfig) -> Notes:
    """Return the notes of a judge about a pair; with a failure, its verdict would be one of another protocol."""
    texts = {note.name: found[note] for note in _notes_of(pair, config) if note.member == member}
    failures = [f"{name}: {result.failure}" for name, result in texts.items() if result.failure is not None]
    return Notes(**{name: result.value for name, result in texts.items()}, failure="; ".join(failures) or None)
