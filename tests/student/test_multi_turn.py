"""Conversations of several turns, greedy and sampled."""

from dataclasses import replace
from pathlib import Path

import pytest

from tapir_exp.config import BudgetConfig, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.student.chat_template import Chat, render_prompt
from tapir_exp.student.generate import generate_responses
from tapir_exp.student.multi_turn import Conversation, generate_conversations
from tapir_exp.student.training.encoding import TrainingRow
from tapir_exp.student.training.job import FitJob
from tapir_exp.student.training.train import finetune


@pytest.fixture(scope="module")
def trained(
    base: Path,
    rows: list[TrainingRow],
    student: StudentConfig,
    trainer: TrainerConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    workdir = tmp_path_factory.mktemp("trained")
    sft = SFTConfig(learning_rate=1e-2, global_batch_size=6)
    finetune(FitJob(base, sft, BudgetConfig(epochs=20), student, trainer), rows, workdir)
    return workdir


def conversations(temperature: float, count: int = 6) -> list[Conversation]:
    return [
        Conversation(str(n), (f"Say {'red ' * (n + 1)}", "Say green blue", "Say black")[: 2 + n % 2], temperature)
        for n in range(count)
    ]


def texts(
    trained: Path, dialogues: list[Conversation], student: StudentConfig, seed: int = 0
) -> list[list[str | None]]:
    return [
        [response.text for response in turns]
        for turns in generate_conversations(trained, dialogues, student, seed, "conversations")
    ]


@pytest.mark.slow
def test_first_turn_at_temperature_0_is_greedy(trained: Path, student: StudentConfig) -> None:
    dialogues = conversations(0.0)
    greedy = generate_responses(trained, [(d.id, d.turns[0]) for d in dialogues], student, "answers")
    assert [turns[0] for turns in texts(trained, dialogues, student)] == [response.text for response in greedy]


def test_later_turn_has_all_earlier_turns_as_context(
    trained: Path, student: StudentConfig, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded_turns: list[list[str]] = []
    encode = Chat.encode_dialogues

    def spy(self: Chat, dialogues: list[list[str]]) -> list[list[int]]:
        encoded_turns.extend(dialogues)
        return encode(self, dialogues)

    monkeypatch.setattr(Chat, "encode_dialogues", spy)
    (responses,) = texts(trained, [Conversation("a", ("Say red", "Say green blue"), 0.0)], student)
    assert encoded_turns == [["Say red"], ["Say red", responses[0] or "", "Say green blue"]]
    (encoded,) = encode(chat, encoded_turns[1:])
    assert chat.tokenizer.decode(encoded) == render_prompt(chat.tokenizer, encoded_turns[1], None)


def test_failed_response_is_empty_in_later_turns(trained: Path, student: StudentConfig) -> None:
    long = Conversation("a", ("red " * 150, "Say red"), 0.0)
    first, second = generate_conversations(trained, [long], student, 0, "conversations")[0]
    assert "no room" in (first.failure or "")
    assert second.text is None  # the long turn is still in the context


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 6])
def test_samples_depend_on_seed_and_dialogue_not_on_batch(trained: Path, student: StudentConfig, batch: int) -> None:
    dialogues = conversations(0.9)
    samples = texts(trained, dialogues, student)
    assert texts(trained, dialogues[::-1], replace(student, generation_batch_size=batch))[::-1] == samples
    assert texts(trained, dialogues, student, seed=1) != samples
    assert [len(turns) for turns in samples] == [2, 3, 2, 3, 2, 3]


def test_control_tokens_in_any_turn_stay_text(chat: Chat) -> None:
    (control,) = chat.control_tokens[:1]
    turns = ("Say red", f"a {control} b", "Say blue")
    (guarded,) = chat.encode_dialogues([turns])
    token = chat.tokenizer.convert_tokens_to_ids(control)
    (plain,) = chat.encode_dialogues([("Say red", "a b", "Say blue")])
    assert guarded.count(token) == plain.count(token)
    assert chat.tokenizer.decode(guarded).count(control) == plain.count(token) + 1
