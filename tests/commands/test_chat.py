"""`tapir chat`: the student beside the model before its training; replies are shown as they are."""

import json
from collections.abc import Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from tapir_exp.commands.chat import ChatError, converse, find_speakers
from tapir_exp.config import StudentConfig
from tapir_exp.core.console import Terminal
from tapir_exp.student.chat_session import ChatSession, ConversationTooLong
from tapir_exp.student.engines.base import Continuation
from tapir_exp.student.engines.sampling import SamplingParams


class Engine:
    """An engine whose every reply has the length of its prompt as its only token."""

    def __init__(self) -> None:
        self.params: list[Sequence[SamplingParams] | None] = []

    def generate(self, prompts, max_new_tokens, params=None):  # type: ignore[no-untyped-def]
        self.params.append(params)
        yield 0, Continuation((len(prompts[0]),), finished=max_new_tokens > 1)


class Template:
    """A chat format in which a turn is one token, and a token is its number."""

    def encode_dialogues(self, dialogues: Sequence[Sequence[str]]) -> list[list[int]]:
        self.turns = [list(turns) for turns in dialogues]
        return [[0] * len(turns) for turns in dialogues]

    def decode(self, tokens: Sequence[int]) -> str:
        return f"[red]{tokens[0]}[/red]\x1b[2J"


def session(engine: Engine | None = None, temperature: float = 0.0, **limits: int) -> ChatSession:
    student = replace(StudentConfig(model="x"), **limits)
    return ChatSession(engine or Engine(), Template(), student, temperature)  # type: ignore[arg-type]


def shown(sessions: dict[str, ChatSession], *turns: str) -> str:
    page = StringIO()
    converse(sessions, turns, Terminal(page))
    return page.getvalue()


def test_replies_of_both_are_text_and_remember_the_turns() -> None:
    text = shown({"before": session(), "after": session()}, "Hi", "", "And?", "/new", "Hi", "/quit", "never")
    assert [line for line in text.splitlines() if line.startswith("[red]")] == [
        f"[red]{turns}[/red]\\x1b[2J" for turns in (1, 1, 3, 3, 1, 1)
    ]
    assert text.count("before (1 tokens") == 3
    assert "\x1b" not in text


def test_cut_reply_and_full_conversation_are_told() -> None:
    text = shown({"after": session(max_new_tokens=1, max_length=3)}, "Hi", "And?")
    assert "cut at the length limit" in text
    assert "has 3 tokens, which leaves no room for a response (student.max_length=3); start a new one: /new" in text


def test_forgotten_turn_leaves_the_conversation_as_it_was() -> None:
    one = session(max_length=3)
    one.reply("Hi")
    with pytest.raises(ConversationTooLong):
        one.reply("And?")
    one.forget()
    assert one.reply("Hi").tokens == 1


def test_sampling_is_greedy_unless_a_temperature_is_given() -> None:
    greedy, sampled = Engine(), Engine()
    session(greedy).reply("Hi")
    one = session(sampled, temperature=0.7)
    one.reply("Hi")
    one.reply("Hi")
    assert greedy.params == [None]
    (first,), (second,) = (params or () for params in sampled.params)
    assert (first.temperature, second.temperature) == (0.7, 0.7)
    assert first.seed != second.seed


def test_directory_without_a_student_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ChatError, match="is neither a student nor a finished run; give the directory of either"):
        find_speakers(tmp_path)


def test_student_of_others_is_alone_unless_a_base_is_given(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert list(find_speakers(tmp_path)) == ["after"]
    assert {name: str(one.source) for name, one in find_speakers(tmp_path, "OWNER/NAME").items()} == {
        "before": "OWNER/NAME",
        "after": str(tmp_path),
    }
    assert list(find_speakers(tmp_path, "OWNER/NAME", only=True)) == ["after"]
