"""Generate a student's responses to many prompts."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tapir_exp.config import StudentConfig
from tapir_exp.core.console import Progress
from tapir_exp.core.records import Response
from tapir_exp.student.chat_template import Chat, load_chat
from tapir_exp.student.engines.base import Continuation, Engine
from tapir_exp.student.engines.factory import open_engine
from tapir_exp.student.engines.sampling import SamplingParams


def generate_responses(
    student_dir: Path,
    prompts: Sequence[tuple[str, str]],
    student: StudentConfig,
    label: str,
    on_response: Callable[[Response], None] | None = None,
) -> list[Response]:
    """Return the student's greedy responses, in the order of the prompts.

    In float32 a response does not depend on the other prompts of its batch.

    Args:
        student_dir: Directory or hub id of the student.
        prompts: Pairs of row id and instruction.
        student: Template, limits and engine. A response of `max_new_tokens` tokens counts as cut. An empty response, or
            a prompt of `max_length` tokens or more, is a failure.
        label: Name of the progress bar.
        on_response: Called in this thread with every response as soon as it is finished.
    """
    chat = load_chat(student_dir, student)
    row_ids = [row_id for row_id, _ in prompts]
    encoded = chat.encode_prompts([instruction for _, instruction in prompts])
    with open_engine(student_dir, chat, student) as engine, Progress(label, len(prompts)) as progress:

        def report(response: Response) -> None:
            progress.advance()
            if on_response is not None:
                on_response(response)

        return generate_encoded(engine, chat, row_ids, encoded, student, report)


def generate_encoded(
    engine: Engine,
    chat: Chat,
    row_ids: Sequence[str],
    encoded: Sequence[Sequence[int]],
    student: StudentConfig,
    on_response: Callable[[Response], None],
    params: Sequence[SamplingParams] | None = None,
) -> list[Response]:
    """Return a response to each encoded prompt, in their order.

    Args:
        engine: An open engine.
        chat: The chat format of the student.
        row_ids: Row id of each prompt.
        encoded: Token ids of each prompt.
        student: The limits of prompts and responses.
        on_response: Called with every response as soon as it is finished.
        params: Sampling parameters of each prompt; None generates greedily.
    """
    responses: dict[int, Response] = {}

    def add(index: int, response: Response) -> None:
        responses[index] = response
        on_response(response)

    fitting = [index for index, prompt in enumerate(encoded) if len(prompt) < student.max_length]
    for index in sorted(set(range(len(encoded))) - set(fitting)):
        add(index, _too_long(row_ids[index], len(encoded[index]), student.max_length))
    of_fitting = None if params is None else [params[index] for index in fitting]
    # The engine counts the prompts that it gets, and finishes them in any order.
    prompts = [encoded[index] for index in fitting]
    for number, continuation in engine.generate(prompts, student.max_new_tokens, of_fitting):
        index = fitting[number]
        add(index, _to_response(row_ids[index], chat, continuation))
    return [responses[index] for index in range(len(row_ids))]


def _to_response(row_id: str, chat: Chat, continuation: Continuation) -> Response:
    text = chat.decode(continuation.tokens)
    if not text:
        return Response(id=row_id, text=None, finished=continuation.finished, failure="empty response")
    return Response(id=row_id, text=text, finished=continuation.finished)


def _too_long(row_id: str, tokens: int, max_length: int) -> Response:
    failure = f"the prompt has {tokens} tokens, which leaves no room for a response (max_length={max_length})"
    return Response(id=row_id, text=None, failure=failure)
