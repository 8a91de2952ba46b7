"""Responses equal those of transformers' own greedy generation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from tapir_exp.config import BudgetConfig, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.records import Response
from tapir_exp.core.stored_rows import RowLog
from tapir_exp.student.chat_template import Chat
from tapir_exp.student.engines import kv_cache
from tapir_exp.student.engines.hf import TransformersEngine
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
    """Train a student that ends most of its responses."""
    workdir = tmp_path_factory.mktemp("trained")
    sft = SFTConfig(learning_rate=1e-2, global_batch_size=6)
    finetune(FitJob(base, sft, BudgetConfig(epochs=60), student, trainer), rows, workdir)
    return workdir


@pytest.fixture(scope="module")
def prompts(rows: list[TrainingRow]) -> list[tuple[str, str]]:
    return [(f"id{n}", rows[(5 * n) % 18].instruction + " 17" * (n % 3)) for n in range(18)]


def generate_by_transformers(student_dir: Path, chat: Chat, prompt: str, limit: int) -> tuple[str, bool]:
    model: Any = AutoModelForCausalLM.from_pretrained(str(student_dir))
    ids = torch.tensor(chat.encode_prompts([prompt]))
    settings = {"max_new_tokens": limit, "do_sample": False, "eos_token_id": chat.end, "pad_token_id": chat.pad}
    config = GenerationConfig(**settings)  # type: ignore[no-untyped-call]
    whole = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    new: list[int] = whole[0, ids.shape[1] :].tolist()
    return chat.decode(new), chat.end in new


def test_generate_responses_equals_transformers(
    trained: Path, chat: Chat, prompts: list[tuple[str, str]], student: StudentConfig
) -> None:
    responses = generate_responses(trained, prompts, student, "label")
    assert [response.id for response in responses] == [name for name, _ in prompts]
    for response, (_, prompt) in zip(responses, prompts, strict=True):
        assert (response.text, response.finished) == generate_by_transformers(
            trained, chat, prompt, student.max_new_tokens
        )
    assert len({response.text for response in responses}) > 3
    assert any(response.finished for response in responses)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 18])
def test_generate_responses_is_independent_of_the_batch(
    trained: Path, prompts: list[tuple[str, str]], student: StudentConfig, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate_responses(trained, prompts, student, "label")
    monkeypatch.setattr(kv_cache, "GROWTH", 2)  # so that the cache has to grow
    assert generate_responses(trained, prompts, replace(student, generation_batch_size=batch), "label") == expected


def test_generate_responses_cut_ones_are_not_finished(
    trained: Path, prompts: list[tuple[str, str]], student: StudentConfig
) -> None:
    whole = generate_responses(trained, prompts, student, "label")
    cut = generate_responses(trained, prompts, replace(student, max_new_tokens=1), "label")
    assert not any(response.finished for response in cut)
    assert all((b.text or "").startswith(a.text or "") for a, b in zip(cut, whole, strict=True))


def test_generate_responses_end_of_turn_needs_a_token(
    trained: Path, chat: Chat, prompts: list[tuple[str, str]], student: StudentConfig
) -> None:
    """A response of n tokens is finished under a limit of n + 1, and cut under n."""
    response = next(a for a in generate_responses(trained, prompts, student, "label") if a.finished)
    prompt = [pair for pair in prompts if pair[0] == response.id]
    length = len(chat.encode_responses([response.text or ""])[0]) - 1
    for limit, finished in ((length, False), (length + 1, True)):
        (again,) = generate_responses(trained, prompt, replace(student, max_new_tokens=limit), "label")
        assert (again.text, again.finished) == (response.text, finished)


def test_generate_responses_empty_one_is_a_failure(
    base: Path, student: StudentConfig, trainer: TrainerConfig, rows: list[TrainingRow], tmp_path: Path
) -> None:
    empty_rows = [TrainingRow(row.instruction, "") for row in rows]
    sft = SFTConfig(learning_rate=1e-2, global_batch_size=6)
    finetune(FitJob(base, sft, BudgetConfig(epochs=4), student, trainer), empty_rows, tmp_path)
    responses = generate_responses(tmp_path, [("a", "Say red")], student, "label")
    assert responses == [Response(id="a", text=None, finished=True, failure="empty response")]


def test_generate_responses_long_prompt_is_a_failure(trained: Path, student: StudentConfig) -> None:
    short = replace(student, max_length=30)
    long, ordinary = generate_responses(trained, [("a", "red " * 50), ("b", "Say red")], short, "label")
    assert long.text is None
    assert "leaves no room" in (long.failure or "")
    assert ordinary.text


def test_generate_responses_without_prompts_is_empty(trained: Path, student: StudentConfig) -> None:
    assert generate_responses(trained, [], student, "label") == []


def test_generate_responses_calls_on_response_for_each(
    trained: Path, prompts: list[tuple[str, str]], student: StudentConfig
) -> None:
    """A prompt that is too long is reported, too."""
    reported: list[Response] = []
    mixed = [*prompts[:5], ("long", "red " * 500)]
    responses = generate_responses(trained, mixed, student, "label", reported.append)
    assert sorted(reported, key=lambda response: response.id) == sorted(responses, key=lambda response: response.id)
    assert len(responses) == 6


def test_interrupted_generation_goes_on_with_the_missing_batches(
    trained: Path,
    prompts: list[tuple[str, str]],
    student: StudentConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kill after seven rows, one of them too long; the batches of four of the second start are those of the first."""
    student, prompts = replace(student, generation_batch_size=4), [*prompts[:12], ("long", "red " * 500)]
    whole = generate_responses(trained, prompts, student, "label")
    reported: list[Response] = []

    def report(response: Response) -> None:
        reported.append(response)
        if len(reported) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), RowLog(tmp_path / "log", Response) as kept:
        generate_responses(trained, prompts, student, "label", report, kept)
    batches = record_batches(monkeypatch)
    again: list[Response] = []
    with RowLog(tmp_path / "log", Response) as kept:
        assert len(kept) == 7
        assert list(generate_responses(trained, prompts, student, "label", again.append, kept)) == whole
    assert batches == [4, 4]
    assert sorted(again[:7], key=whole.index) == sorted(reported, key=whole.index)
    assert sorted(again, key=whole.index) == whole


def test_complete_log_needs_no_model(prompts: list[tuple[str, str]], student: StudentConfig, tmp_path: Path) -> None:
    kept = {index: Response(id=row_id, text="Yes.") for index, (row_id, _) in enumerate(prompts)}
    assert generate_responses(tmp_path / "no model", prompts, student, "label", kept=kept) == list(kept.values())


def record_batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the size of every batch from now on."""
    batches: list[int] = []
    generate_batch = TransformersEngine._generate_batch

    def generate(engine: TransformersEngine, prompts: Any, *arguments: Any) -> Any:
        batches.append(len(prompts))
        return generate_batch(engine, prompts, *arguments)

    monkeypatch.setattr(TransformersEngine, "_generate_batch", generate)
    return batches
