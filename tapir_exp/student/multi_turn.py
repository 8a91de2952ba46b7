"""Conversations of a student: it answers a user's turns one after another, each with all before it in view."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tapir_exp.config import StudentConfig
from tapir_exp.core.console import Progress
from tapir_exp.core.records import Response
from tapir_exp.core.seeding import derive_seed
from tapir_exp.student.chat_template import load_chat
from tapir_exp.student.engines.factory import open_engine
from tapir_exp.student.engines.sampling import SamplingParams
from tapir_exp.student.generate import generate_encoded


@dataclass(frozen=True)
class Conversation:
    """The turns of one user, known beforehand, and the temperature at which they are answered."""

    id: str
    turns: tuple[str, ...]
    temperature: float


def generate_conversations(
    student_dir: Path, dialogues: Sequence[Conversation], student: StudentConfig, seed: int, label: str
) -> list[list[Response]]:
    """The student's answers to every turn of every dialogue, in their order.

    A turn without a usable answer is shown as an empty one in what follows. An answer depends on the seed, its dialogue
    and its turn, not on its neighbours in the batch (in float32).
    """
    chat = load_chat(student_dir, student)
    sampled = any(dialogue.temperature for dialogue in dialogues)
    answers: list[list[Response]] = [[] for _ in dialogues]
    with (
        open_engine(student_dir, chat, student, sampled=sampled) as engine,
        Progress(label, sum(len(dialogue.turns) for dialogue in dialogues)) as progress,
    ):
        for turn in range(max((len(dialogue.turns) for dialogue in dialogues), default=0)):
            going = [place for place, dialogue in enumerate(dialogues) if turn < len(dialogue.turns)]
            encoded = chat.encode_dialogues([_history(dialogues[place], answers[place]) for place in going])
            names = [dialogues[place].id for place in going]
            draws = [_sampling_params(dialogues[place], turn, seed) for place in going] if sampled else None
            given = generate_encoded(engine, chat, names, encoded, student, lambda _: progress.advance(), draws)
            for place, answer in zip(going, given, strict=True):
                answers[place].append(answer)
    return answers


def _history(dialogue: Conversation, answers: Sequence[Response]) -> list[str]:
    """The turns of user and student in order, up to the user's next one."""
    before = [text for turn, answer in zip(dialogue.turns, answers, strict=False) for text in (turn, answer.text or "")]
    return [*before, dialogue.turns[len(answers)]]


def _sampling_params(dialogue: Conversation, turn: int, seed: int) -> SamplingParams:
    return SamplingParams(dialogue.temperature, derive_seed(seed, dialogue.id, turn))
