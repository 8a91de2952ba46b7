"""Generate a student's responses to many prompts."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TypeVar

from tapir_exp.config import StudentConfig
from tapir_exp.core.console import Progress, console
from tapir_exp.core.records import Response
from tapir_exp.core.stored_rows import LazySequence, in_order
from tapir_exp.student.chat_template import Chat, load_chat
from tapir_exp.student.encoded_prompts import EncodedPrompts, encode_in_blocks
from tapir_exp.student.engines.base import Continuation, Engine
from tapir_exp.student.engines.factory import open_engine
from tapir_exp.student.engines.sampling import SamplingParams

Item = TypeVar("Item")


def generate_responses(
    student_dir: Path,
    prompts: Sequence[tuple[str, str]],
    student: StudentConfig,
    label: str,
    on_response: Callable[[Response], None] | None = None,
    kept: MutableMapping[int, Response] | None = None,
) -> Sequence[Response]:
    """Return the student's greedy responses, in the order of the prompts.

    In float32 a response does not depend on the other prompts of its batch.

    Args:
        student_dir: Directory or hub id of the student.
        prompts: Pairs of row id and instruction.
        student: Template, limits and engine. A response of `max_new_tokens` tokens counts as cut. An empty response, or
            a prompt of `max_length` tokens or more, is a failure.
        label: Name of the progress bar.
        on_response: Called in this thread with every response as soon as it is finished, and with the kept ones first.
        kept: Responses by the index of their prompt. Those of an earlier process are not generated again, and new ones
            are added as they come. If none is missing, no model is loaded.
    """
    kept = {} if kept is None else kept
    with Progress(label, len(prompts)) as progress:

        def report(response: Response) -> None:
            progress.advance()
            if on_response is not None:
                on_response(response)

        report_kept(kept, report, label, len(prompts))
        if len(kept) < len(prompts):
            chat = load_chat(student_dir, student)
            encoded = encode_in_blocks(chat, LazySequence(len(prompts), lambda index: prompts[index][1]))
            row_ids = [row_id for row_id, _ in prompts]
            with open_engine(student_dir, chat, student) as engine:
                generate_encoded(engine, chat, row_ids, encoded, student, report, kept=kept)
    return in_order(kept, len(prompts))


def report_kept(kept: Mapping[int, Item], on_response: Callable[[Item], None], label: str, total: int) -> None:
    """Report the rows that an earlier process made, and print how many there are."""
    if kept:
        console.print(f"  {label}: {len(kept)} of {total} are kept from an earlier start", soft_wrap=True)
    for index in list(kept):
        on_response(kept[index])


def generate_encoded(
    engine: Engine,
    chat: Chat,
    row_ids: Sequence[str],
    encoded: Sequence[Sequence[int]],
    student: StudentConfig,
    on_response: Callable[[Response], None],
    params: Sequence[SamplingParams] | None = None,
    kept: MutableMapping[int, Response] | None = None,
) -> Sequence[Response]:
    """Return a response to each encoded prompt, in their order.

    Args:
        engine: An open engine.
        chat: The chat format of the student.
        row_ids: Row id of each prompt.
        encoded: Token ids of each prompt.
        student: The limits of prompts and responses.
        on_response: Called with every new response as soon as it is finished.
        params: Sampling parameters of each prompt; None generates greedily.
        kept: Responses by the index of their prompt, which are not generated again; new ones are added.
    """
    responses = {} if kept is None else kept

    def add(index: int, response: Response) -> None:
        # A batch with a missing row is generated as a whole, and its other rows are there already.
        if index not in responses:
            responses[index] = response
            on_response(response)

    lengths = encoded.lengths if isinstance(encoded, EncodedPrompts) else [len(prompt) for prompt in encoded]
    for index, length in enumerate(lengths):
        if length >= student.max_length:
            add(index, _too_long(row_ids[index], length, student.max_length))
    # The engine counts the prompts that it gets, and finishes them in any order.
    fitting = [index for index, length in enumerate(lengths) if length < student.max_length]
    prompts = LazySequence(len(fitting), lambda number: encoded[fitting[number]])
    of_fitting = None if params is None else LazySequence(len(fitting), lambda number: params[fitting[number]])
    done = frozenset(number for number, index in enumerate(fitting) if index in responses)
    for number, continuation in engine.generate(prompts, student.max_new_tokens, of_fitting, done):
        index = fitting[number]
        add(index, _to_response(row_ids[index], chat, continuation))
    return in_order(responses, len(row_ids))


def _to_response(row_id: str, chat: Chat, continuation: Continuation) -> Response:
    text = chat.decode(continuation.tokens)
    if not text:
        return Response(id=row_id, text=None, finished=continuation.finished, failure="empty response")
    return Response(id=row_id, text=text, finished=continuation.finished)


def _too_long(row_id: str, tokens: int, max_length: int) -> Response:
    failure = f"the prompt has {tokens} tokens, which leaves no room for a response (max_length={max_length})"
    return Response(id=row_id, text=None, failure=failure)
