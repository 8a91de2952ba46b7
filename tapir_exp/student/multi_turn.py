"""Multi-turn generation: a student responds to one user turn after another, with all earlier turns as context."""

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tapir_exp.config import StudentConfig
from tapir_exp.core.console import Progress
from tapir_exp.core.records import Response
from tapir_exp.core.seeding import derive_seed
from tapir_exp.core.stored_rows import ShiftedRows
from tapir_exp.student.chat_template import load_chat
from tapir_exp.student.engines.factory import open_engine
from tapir_exp.student.engines.sampling import SamplingParams
from tapir_exp.student.generate import generate_encoded, report_kept


@dataclass(frozen=True)
class Conversation:
    """The user's turns of one conversation, all known beforehand.

    Attributes:
        id: Id of the conversation; sampling depends on it.
        turns: The user's messages in order.
        temperature: Sampling temperature of every response; 0 is greedy.
    """

    id: str
    turns: tuple[str, ...]
    temperature: float


def generate_conversations(
    student_dir: Path,
    dialogues: Sequence[Conversation],
    student: StudentConfig,
    seed: int,
    label: str,
    kept: MutableMapping[int, Response] | None = None,
) -> list[list[Response]]:
    """Generate the student's responses to every turn of every conversation.

    A response that failed stands as an empty one in later turns. In float32 a response depends on the seed, its
    conversation and its turn, not on the other rows of its batch.

    Args:
        student_dir: Directory of the student.
        dialogues: The conversations.
        student: Settings of the student.
        seed: Seed of sampled responses.
        label: Label of the progress bar.
        kept: Responses that an earlier process made, and new ones as they come. Those to the first turns come first, in
            the order of the conversations. Those to the second turns follow, and so on.

    Returns:
        The responses of each conversation, in the order of its turns.
    """
    kept, first = {} if kept is None else kept, 0
    chat = load_chat(student_dir, student)
    sampled = any(dialogue.temperature for dialogue in dialogues)
    responses: list[list[Response]] = [[] for _ in dialogues]
    with (
        open_engine(student_dir, chat, student, sampled=sampled) as engine,
        Progress(label, sum(len(dialogue.turns) for dialogue in dialogues)) as progress,
    ):
        report_kept(kept, lambda _: progress.advance(), label, sum(len(dialogue.turns) for dialogue in dialogues))
        # All conversations advance by one turn at a time, so that a turn of all of them makes full batches.
        for turn in range(max((len(dialogue.turns) for dialogue in dialogues), default=0)):
            active = [index for index, dialogue in enumerate(dialogues) if turn < len(dialogue.turns)]
            prompts = chat.encode_dialogues([_history(dialogues[index], responses[index]) for index in active])
            ids = [dialogues[index].id for index in active]
            params = [_sampling_params(dialogues[index], turn, seed) for index in active] if sampled else None
            rows = ShiftedRows(kept, first)
            new = generate_encoded(engine, chat, ids, prompts, student, lambda _: progress.advance(), params, rows)
            for index, response in zip(active, new, strict=True):
                responses[index].append(response)
            first += len(active)
    return responses


def _history(dialogue: Conversation, responses: Sequence[Response]) -> list[str]:
    """Return the turns of user and student in order, up to and including the user's next one."""
    pairs = zip(dialogue.turns, responses, strict=False)
    return [*(text for turn, response in pairs for text in (turn, response.text or "")), dialogue.turns[len(responses)]]


def _sampling_params(dialogue: Conversation, turn: int, seed: int) -> SamplingParams:
    return SamplingParams(dialogue.temperature, derive_seed(seed, dialogue.id, turn))
