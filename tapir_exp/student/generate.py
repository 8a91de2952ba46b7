"""Answers of a student to many prompts, each with the reason why it ended."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tapir_exp.config import StudentConfig
from tapir_exp.core.console import Progress
from tapir_exp.core.records import Response
from tapir_exp.student.chat_template import Chat, load_chat
from tapir_exp.student.engines.base import Continuation, Engine
from tapir_exp.student.engines.factory import open_engine
from tapir_exp.student.engines.sampling import SamplingParams

OnResponse = Callable[[Response], None]
"""Gets every answer as soon as it is finished."""


def generate_responses(
    student_dir: Path,
    prompts: Sequence[tuple[str, str]],
    student: StudentConfig,
    label: str,
    hear: OnResponse | None = None,
) -> list[Response]:
    """The student's greedy answers, in the order of `prompts`, which are (id, instruction) pairs.

    An answer of `student.max_new_tokens` tokens counts as cut; an empty one, and a prompt that fills
    `student.max_length`, are failures. In float32 an answer does not depend on its neighbours in the batch.
    """
    chat = load_chat(student_dir, student)
    names, encoded = [name for name, _ in prompts], chat.encode_prompts([instruction for _, instruction in prompts])
    with open_engine(student_dir, chat, student) as engine, Progress(label, len(prompts)) as progress:

        def tell(answer: Response) -> None:
            progress.advance()
            if hear is not None:
                hear(answer)

        return generate_encoded(engine, chat, names, encoded, student, tell)


def generate_encoded(
    engine: Engine,
    chat: Chat,
    names: Sequence[str],
    encoded: Sequence[Sequence[int]],
    student: StudentConfig,
    hear: OnResponse,
    draws: Sequence[SamplingParams] | None = None,
) -> list[Response]:
    """An answer to each encoded prompt, in their order and under their names; greedy where there are no `draws`."""
    answers: dict[int, Response] = {}

    def keep(place: int, answer: Response) -> None:
        answers[place] = answer
        hear(answer)

    taken = [place for place, prompt in enumerate(encoded) if len(prompt) < student.max_length]
    for place in sorted(set(range(len(encoded))) - set(taken)):
        keep(place, _too_long(names[place], len(encoded[place])))
    drawn = None if draws is None else [draws[place] for place in taken]
    for row, written in engine.generate([encoded[place] for place in taken], student.max_new_tokens, drawn):
        keep(taken[row], _answer(names[taken[row]], chat, written))
    return [answers[place] for place in range(len(names))]


def _answer(name: str, chat: Chat, written: Continuation) -> Response:
    text = chat.decode(written.tokens)
    if not text:
        return Response(id=name, text=None, finished=written.finished, failure="empty answer")
    return Response(id=name, text=text, finished=written.finished)


def _too_long(name: str, tokens: int) -> Response:
    return Response(id=name, text=None, failure=f"the prompt's {tokens} tokens leave no room for an answer")
