"""Several turns of one student, and tokens drawn at a temperature."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tapir_exp.config import BudgetConfig, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.student.chat_template import Chat, render_prompt
from tapir_exp.student.engines.sampling import SamplingParams, Sampler
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


def asked(temperature: float, count: int = 6) -> list[Conversation]:
    return [
        Conversation(str(n), (f"Say {'red ' * (n + 1)}", "Say green blue", "Say black")[: 2 + n % 2], temperature)
        for n in range(count)
    ]


def texts(
    trained: Path, dialogues: list[Conversation], student: StudentConfig, seed: int = 0
) -> list[list[str | None]]:
    return [
        [answer.text for answer in turns] for turns in generate_conversations(trained, dialogues, student, seed, "talk")
    ]


def test_the_first_turn_at_temperature_0_is_the_greedy_answer(trained: Path, student: StudentConfig) -> None:
    dialogues = asked(0.0)
    greedy = generate_responses(trained, [(d.id, d.turns[0]) for d in dialogues], student, "answers")
    assert [turns[0] for turns in texts(trained, dialogues, student)] == [answer.text for answer in greedy]


def test_a_later_turn_sees_everything_before_it(
    trained: Path, student: StudentConfig, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[list[str]] = []
    encode = Chat.encode_dialogues

    def spy(self: Chat, dialogues: list[list[str]]) -> list[list[int]]:
        shown.extend(dialogues)
        return encode(self, dialogues)

    monkeypatch.setattr(Chat, "encode_dialogues", spy)
    (answers,) = texts(trained, [Conversation("a", ("Say red", "Say green blue"), 0.0)], student)
    assert shown == [["Say red"], ["Say red", answers[0] or "", "Say green blue"]]
    (encoded,) = encode(chat, shown[1:])
    assert chat.tokenizer.decode(encoded) == render_prompt(chat.tokenizer, shown[1], None)


def test_a_turn_without_an_answer_is_an_empty_one_and_the_talk_goes_on(trained: Path, student: StudentConfig) -> None:
    long = Conversation("a", ("red " * 150, "Say red"), 0.0)
    first, second = generate_conversations(trained, [long], student, 0, "talk")[0]
    assert "leave no room" in (first.failure or "")
    assert second.text is None  # the long turn is still in view


@pytest.mark.parametrize("batch", [1, 6])
def test_drawn_answers_depend_on_seed_and_dialogue_not_on_neighbours(
    trained: Path, student: StudentConfig, batch: int
) -> None:
    dialogues = asked(0.9)
    found = texts(trained, dialogues, student)
    assert texts(trained, dialogues[::-1], replace(student, generation_batch_size=batch))[::-1] == found
    assert texts(trained, dialogues, student, seed=1) != found
    assert [len(turns) for turns in found] == [2, 3, 2, 3, 2, 3]


def test_tokens_are_drawn_as_often_as_their_probabilities_say() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    sampler = Sampler([SamplingParams(0.5, 7)])
    seen = Counter(int(sampler.choose(logits)) for _ in range(4000))
    for token, share in enumerate(torch.softmax(logits[0] / 0.5, 0).tolist()):
        assert seen[token] / 4000 == pytest.approx(share, abs=0.025)


def test_each_row_has_its_own_temperature_and_stream() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    draws = [SamplingParams(0.0, 1), SamplingParams(1.0, 2), SamplingParams(1.0, 3)]
    together = Sampler(draws)
    first = together.choose(logits)
    assert int(first[0]) == int(logits[0].argmax())
    together.keep([0, 2])
    alone = Sampler([draws[2]])
    assert int(alone.choose(logits[2:])) == int(first[2])
    assert int(together.choose(logits[[0, 2]])[1]) == int(alone.choose(logits[2:]))


def test_control_tokens_in_any_turn_stay_text(chat: Chat) -> None:
    (control,) = chat.control_tokens[:1]
    turns = ("Say red", f"a {control} b", "Say blue")
    (guarded,) = chat.encode_dialogues([turns])
    token = chat.tokenizer.convert_tokens_to_ids(control)
    (plain,) = chat.encode_dialogues([("Say red", "a b", "Say blue")])
    assert guarded.count(token) == plain.count(token)
    assert chat.tokenizer.decode(guarded).count(control) == plain.count(token) + 1
