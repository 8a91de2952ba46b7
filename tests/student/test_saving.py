"""Saved students: reproducible bytes, movable directories, and one token that ends a turn."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from tiny import llama_base, qwen_base
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tapir_exp.config import BudgetConfig, ChatTemplate, Method, Precision, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.records import Subset
from tapir_exp.core.store import digest_files
from tapir_exp.student.chat_template import load_chat
from tapir_exp.student.generate import generate_responses
from tapir_exp.student.loading import AdapterBase, load_model
from tapir_exp.student.multi_turn import Conversation, generate_conversations
from tapir_exp.student.response_loss import LossRow, response_losses
from tapir_exp.student.saving import save_merged
from tapir_exp.student.training.batching import collate
from tapir_exp.student.training.encoding import TrainingRow, encode_rows
from tapir_exp.student.training.job import FitJob
from tapir_exp.student.training.train import finetune

ALL_LINEAR = ["v_proj", "q_proj", "up_proj", "o_proj", "k_proj", "gate_proj", "down_proj"]
Fit = Callable[..., Path]
TOKENS = torch.arange(20)[None]


@pytest.fixture
def lora(sft: SFTConfig) -> SFTConfig:
    return replace(sft, method=Method.lora, lora=replace(sft.lora, rank=4, target_modules=ALL_LINEAR))


@pytest.fixture
def fit(base: Path, rows: list[TrainingRow], lora: SFTConfig, student: StudentConfig, trainer: TrainerConfig) -> Fit:
    """Train an adapter in store/student/one over store/base_student/base, like a run in its outputs directory."""

    def run(outputs: Path) -> Path:
        store = outputs / "store"
        shutil.copytree(base, store / "base_student" / "base")
        workdir, adapter_base = store / "student" / "one", AdapterBase("../../base_student/base")
        parent = store / "base_student" / "base"
        job = FitJob(parent, lora, BudgetConfig(epochs=4), student, trainer, alpha=0.3, base=adapter_base)
        finetune(job, rows, workdir)
        return workdir

    return run


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    result: torch.Tensor = model(TOKENS).logits.float()
    return result


def over_base(base: Path, adapter: Path, dtype: torch.dtype) -> Any:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    return PeftModel.from_pretrained(model, str(adapter)).eval()


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_merged_logits_equal_those_of_base_and_adapter(
    fit: Fit, base: Path, tmp_path: Path, student: StudentConfig, precision: str, tolerance: float
) -> None:
    """The tolerance is relative to the largest logit; bfloat16 has 8 bits of precision."""
    adapter = fit(tmp_path)
    unmerged = logits(over_base(base, adapter, getattr(torch, precision)))
    merged = logits(load_model(adapter, replace(student, precision=Precision(precision))))
    scale = unmerged.abs().max()
    assert (merged - unmerged).abs().max() <= tolerance * scale
    assert (logits(AutoModelForCausalLM.from_pretrained(base)) - unmerged).abs().max() > 0.2 * scale


@pytest.mark.slow
def test_adapter_directory_holds_the_files_of_peft(fit: Fit, tmp_path: Path) -> None:
    adapter = fit(tmp_path)
    assert {path.name for path in adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "training.jsonl",
        "timings.jsonl",
    }


@pytest.mark.slow
def test_peft_and_transformers_alone_load_an_adapter(
    fit: Fit, tmp_path: Path, student: StudentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = fit(tmp_path)
    monkeypatch.chdir(adapter)
    ours = logits(load_model(adapter, student))
    for auto_class in (AutoPeftModelForCausalLM, AutoModelForCausalLM):
        torch.testing.assert_close(logits(auto_class.from_pretrained(".").eval()), ours, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_equal_fits_in_other_directories_have_equal_bytes(fit: Fit, tmp_path: Path) -> None:
    one, two = fit(tmp_path / "one"), fit(tmp_path / "another" / "directory")
    assert digest_files(one) == digest_files(two)
    settings = json.loads((one / "adapter_config.json").read_text())
    # peft's own order is that of a set, which differs between processes
    assert settings["target_modules"] == sorted(ALL_LINEAR)
    for path in one.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
        assert b"_version" not in path.read_bytes()


@pytest.mark.slow
def test_moved_adapter_still_generates_scores_and_trains(
    fit: Fit, tmp_path: Path, student: StudentConfig, lora: SFTConfig, rows: list[TrainingRow], trainer: TrainerConfig
) -> None:
    adapter = fit(tmp_path / "outputs")
    before = generate_responses(adapter, [("one", "Say red")], student, "responses")
    (tmp_path / "outputs").rename(tmp_path / "moved")
    adapter = tmp_path / "moved" / "store" / "student" / "one"
    assert generate_responses(adapter, [("one", "Say red")], student, "responses") == before
    assert response_losses(adapter, [LossRow("one", "Say red", "green")], student, "losses")[0].instructed
    (turns,) = generate_conversations(adapter, [Conversation("one", ("Say red", "And?"), 0.0)], student, 0, "turns")
    assert len(turns) == 2
    nothing = BudgetConfig(epochs=0)
    finetune(FitJob(adapter, lora, nothing, student, trainer, alpha=0.3), rows, adapter.parent / "two")
    weights = [digest_files(adapter.parent / name)["adapter_model.safetensors"] for name in ("one", "two")]
    assert weights[0] == weights[1]
    assert generate_responses(adapter.parent / "two", [("one", "Say red")], student, "responses") == before


TWO_LINES = [TrainingRow("What is red?", "A hue.", Subset.REST), TrainingRow("What is a cat?", "A beast.", Subset.HARD)]
KINDS: dict[str, tuple[Callable[[Path], Path], ChatTemplate, str]] = {
    "llama2": (llama_base, ChatTemplate.llama2, "</s>"),
    "qwen base": (qwen_base, ChatTemplate.chatml, "<|im_end|>"),
}


@pytest.fixture(scope="module", params=[(kind, method) for kind in KINDS for method in ("full", "lora", "merged")])
def trained_student(
    request: pytest.FixtureRequest, trainer: TrainerConfig, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, StudentConfig, str]:
    """Train a student on two lines; return its directory, its settings and its end of turn."""
    kind, method = request.param
    build, template, end = KINDS[kind]
    home = tmp_path_factory.mktemp("trained_student")
    (home / "base").mkdir()
    student = StudentConfig(model="x", chat_template=template, max_length=200, max_new_tokens=40)
    trained = Method.full if method == "full" else Method.lora
    sft = SFTConfig(method=trained, learning_rate=1e-2, global_batch_size=2, warmup_ratio=0.1)
    sft = replace(sft, lora=replace(sft.lora, rank=16, alpha=64, dropout=0.0, target_modules=ALL_LINEAR))
    budget = BudgetConfig(epochs=150)
    finetune(FitJob(build(home / "base"), sft, budget, student, trainer), TWO_LINES, home / "student")
    if method != "merged":
        return home / "student", student, end
    (home / "merged").mkdir()
    save_merged(home / "student", student, home / "merged")
    return home / "merged", student, end


@pytest.mark.slow
def test_tokenizer_model_and_generation_have_one_eos(trained_student: tuple[Path, StudentConfig, str]) -> None:
    directory, student, end = trained_student
    tokenizer = AutoTokenizer.from_pretrained(directory)
    generation = GenerationConfig.from_pretrained(directory)
    token = tokenizer.convert_tokens_to_ids(end)
    model = load_model(directory, student)
    assert tokenizer.eos_token == end
    assert {tokenizer.eos_token_id, generation.eos_token_id, model.config.eos_token_id} == {token}
    assert model.generation_config.eos_token_id == token  # type: ignore[union-attr]
    if (directory / "config.json").is_file():
        assert json.loads((directory / "config.json").read_text())["eos_token_id"] == token


@pytest.mark.slow
def test_student_ends_its_responses(trained_student: tuple[Path, StudentConfig, str]) -> None:
    """This needs an end of turn that is supervised, and at which generation stops."""
    directory, student, _ = trained_student
    responses = generate_responses(
        directory, [(row.response, row.instruction) for row in TWO_LINES], student, "responses"
    )
    assert [(response.text, response.finished) for response in responses] == [(row.response, True) for row in TWO_LINES]


@pytest.mark.slow
def test_prompt_of_transformers_equals_that_of_the_fit(trained_student: tuple[Path, StudentConfig, str]) -> None:
    directory, student, _ = trained_student
    tokenizer = AutoTokenizer.from_pretrained(directory)
    turns = [{"role": "user", "content": "What is red?"}]
    theirs = tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    (ours,) = load_chat(directory, student).encode_prompts(["What is red?"])
    assert theirs == ours
    if tokenizer.bos_token is not None and student.chat_template is ChatTemplate.llama2:
        assert ours.count(tokenizer.bos_token_id) == 1


def test_end_is_supervised_although_it_is_the_padding(tmp_path: Path) -> None:
    student = StudentConfig(model="x", chat_template=ChatTemplate.llama2, max_length=200)
    chat = load_chat(llama_base(tmp_path), student)
    assert chat.pad == chat.end
    encoded = encode_rows(TWO_LINES, chat, student.max_length)
    targets = collate(encoded.rows).targets.tolist()
    assert targets.count(chat.end) == len(TWO_LINES)
    ends = list(accumulate(row.supervised for row in encoded.rows))
    assert [targets[end - 1] for end in ends] == [chat.end] * len(TWO_LINES)
