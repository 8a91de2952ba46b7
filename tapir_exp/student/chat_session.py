"""A conversation with one student, turn by turn."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tapir_exp.config import EngineKind, StudentConfig
from tapir_exp.core.errors import TapirError
from tapir_exp.core.seeding import derive_seed
from tapir_exp.student.chat_template import Chat, load_chat
from tapir_exp.student.engines.base import Engine
from tapir_exp.student.engines.factory import open_engine
from tapir_exp.student.engines.sampling import SamplingParams


class ConversationTooLong(TapirError):
    """A conversation leaves no room for a response."""


@dataclass(frozen=True)
class Reply:
    """A response of the student.

    Attributes:
        text: The response; empty if the student ended its turn at once.
        finished: False if the length limit cut it.
        tokens: Its length.
        seconds: Time that it took.
    """

    text: str
    finished: bool
    tokens: int
    seconds: float


class ChatSession:
    """A conversation with a student in memory. Replies of sampled sessions depend on the seed and the turn."""

    def __init__(
        self, engine: Engine, chat: Chat, student: StudentConfig, temperature: float = 0.0, seed: int = 0
    ) -> None:
        """Set up the session; use `open_session`.

        Args:
            engine: An open engine.
            chat: The chat format of the student.
            student: The limits of prompts and responses.
            temperature: Sampling temperature; 0 is greedy.
            seed: Seed of sampled responses.
        """
        self._engine, self._chat, self._student = engine, chat, student
        self._temperature, self._seed = temperature, seed
        self._turns: list[str] = []

    def reply(self, text: str) -> Reply:
        """Return the student's response to the next turn of the user.

        Raises:
            ConversationTooLong: If the conversation leaves no room for a response. The turn is then removed.
        """
        turns = [*self._turns, text]
        (prompt,) = self._chat.encode_dialogues([turns])
        if len(prompt) >= self._student.max_length:
            raise ConversationTooLong(
                f"the conversation has {len(prompt)} tokens, which leaves no room for a response "
                f"(student.max_length={self._student.max_length}); start a new one"
            )
        params = None
        if self._temperature:
            params = [SamplingParams(self._temperature, derive_seed(self._seed, len(turns)))]
        started = time.monotonic()
        ((_, continuation),) = self._engine.generate([prompt], self._student.max_new_tokens, params)
        answer = self._chat.decode(continuation.tokens)
        # A template takes no empty turn.
        self._turns = [*turns, answer or " "]
        return Reply(answer, continuation.finished, len(continuation.tokens), time.monotonic() - started)

    def forget(self) -> None:
        """Begin a new conversation."""
        self._turns = []


@contextmanager
def open_session(
    source: Path,
    student: StudentConfig,
    temperature: float = 0.0,
    seed: int = 0,
    tokenizer: Path | None = None,
) -> Iterator[ChatSession]:
    """Load a student for a conversation.

    Args:
        source: Directory or hub id of the student.
        student: Template, system prompt and limits. Its engine is not used: transformers generates.
        temperature: Sampling temperature; 0 is greedy.
        seed: Seed of sampled responses.
        tokenizer: Directory of another tokenizer, such as that of a student with the same vocabulary and a template.

    Raises:
        ConfigError: If the student cannot be loaded.
    """
    student = replace(student, engine=EngineKind.transformers)
    chat = load_chat(tokenizer or source, student)
    with open_engine(source, chat, student, sampled=temperature > 0) as engine:
        yield ChatSession(engine, chat, student, temperature, seed)
