"""Answers against transformers' own greedy generation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from tapir_exp.config import BudgetConfig, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.records import Response
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines import kv_cache
from tapir_exp.student.generate import generate_responses
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
    """A student that has learnt to stop, mostly."""
    workdir = tmp_path_factory.mktemp("trained")
    sft = SFTConfig(learning_rate=1e-2, global_batch_size=6)
    finetune(FitJob(base, sft, BudgetConfig(epochs=60), student, trainer), rows, workdir)
    return workdir


@pytest.fixture(scope="module")
def prompts(rows: list[TrainingRow]) -> list[tuple[str, str]]:
    return [(f"id{n}", rows[(5 * n) % 18].instruction + " 17" * (n % 3)) for n in range(18)]


def answer_by_transformers(student_dir: Path, chat: Chat, prompt: str, limit: int) -> tuple[str, bool]:
    model: Any = AutoModelForCausalLM.from_pretrained(str(student_dir))
    ids = torch.tensor(chat.encode_prompts([prompt]))
    settings = {"max_new_tokens": limit, "do_sample": False, "eos_token_id": chat.end, "pad_token_id": chat.pad}
    config = GenerationConfig(**settings)  # type: ignore[no-untyped-call]
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    new: list[int] = whole[0, ids.shape[1] :].tolist()
    return chat.decode(new), chat.end in new


def test_answers_are_those_of_transformers(
    trained: Path, chat: Chat, prompts: list[tuple[str, str]], student: StudentConfig
) -> None:
    answers = generate_responses(trained, prompts, student, "answers")
    assert [answer.id for answer in answers] == [name for name, _ in prompts]
    for answer, (_, prompt) in zip(answers, prompts, strict=True):
        assert (answer.text, answer.finished) == answer_by_transformers(trained, chat, prompt, student.max_new_tokens)
    assert len({answer.text for answer in answers}) > 3
    assert any(answer.finished for answer in answers)


@pytest.mark.parametrize("batch", [1, 3, 18])
def test_neighbours_do_not_matter(
    trained: Path, prompts: list[tuple[str, str]], student: StudentConfig, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate_responses(trained, prompts, student, "answers")
    monkeypatch.setattr(kv_cache, "GROWTH", 2)  # so that the cache has to grow
    assert generate_responses(trained, prompts, replace(student, generation_batch_size=batch), "answers") == expected


def test_cut_answers_are_not_finished(trained: Path, prompts: list[tuple[str, str]], student: StudentConfig) -> None:
    whole = generate_responses(trained, prompts, student, "answers")
    cut = generate_responses(trained, prompts, replace(student, max_new_tokens=1), "answers")
    assert not any(answer.finished for answer in cut)
    assert all((b.text or "").startswith(a.text or "") for a, b in zip(cut, whole, strict=True))


def test_answer_that_ends_at_the_limit_is_finished(
    trained: Path, chat: Chat, prompts: list[tuple[str, str]], student: StudentConfig
) -> None:
    """The end of turn is a token too: an answer of n tokens is finished under a limit of n + 1, cut under n."""
    answer = next(a for a in generate_responses(trained, prompts, student, "answers") if a.finished)
    prompt = [pair for pair in prompts if pair[0] == answer.id]
    length = len(chat.encode_responses([answer.text or ""])[0]) - 1
    for limit, finished in ((length, False), (length + 1, True)):
        (again,) = generate_responses(trained, prompt, replace(student, max_new_tokens=limit), "answers")
        assert (again.text, again.finished) == (answer.text, finished)


def test_empty_answer_is_a_failure(
    base: Path, student: StudentConfig, trainer: TrainerConfig, rows: list[TrainingRow], tmp_path: Path
) -> None:
    silent = [TrainingRow(row.instruction, "") for row in rows]
    sft = SFTConfig(learning_rate=1e-2, global_batch_size=6)
    finetune(FitJob(base, sft, BudgetConfig(epochs=4), student, trainer), silent, tmp_path)
    answers = generate_responses(tmp_path, [("a", "Say red")], student, "answers")
    assert answers == [Response(id="a", text=None, finished=True, failure="empty answer")]


def test_prompt_without_room_is_a_failure(trained: Path, student: StudentConfig) -> None:
    short = replace(student, max_length=30)
    long, ordinary = generate_responses(trained, [("a", "red " * 50), ("b", "Say red")], short, "answers")
    assert long.text is None
    assert "leave no room" in (long.failure or "")
    assert ordinary.text


def test_no_prompts_no_answers(trained: Path, student: StudentConfig) -> None:
    assert generate_responses(trained, [], student, "answers") == []
