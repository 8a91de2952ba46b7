"""The memory of a fit: parameters against published counts, and activations against what torch keeps."""

import io
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from tapir_exp import plan
from tapir_exp.cli import data_dir
from tapir_exp.config import Config, LoraConfig, Method, SFTConfig, ShapeConfig, StudentConfig, parse
from tapir_exp.memory import (
    CARD_GB,
    GB,
    LOGITS,
    adapter_width,
    count_adapter,
    count_parameters,
    full_activations,
    lora_activations,
    memory_in_words,
    memory_of,
    parameters_of,
)
from tapir_exp.student.data import MicroBatch
from tapir_exp.student.module import response_nll
from tapir_exp.student.train import _open_for_training

PUBLISHED = {
    "llama2_7b": 6_738_415_616,
    "qwen1_5_0_5b": 463_987_712,
    "qwen1_5_1_8b": 1_836_828_672,
    "qwen1_5_4b": 3_950_369_280,
    "qwen1_5_7b": 7_721_324_544,
    "qwen1_5_14b": 14_167_290_880,
}
"""Parameters of the models' files, as their pages on the hub state them."""
SMALL = ShapeConfig(64, 3, 4, 4, 172, 300)
ROWS, LENGTH = 4, 32
WIDTHS = {torch.float32: 4, torch.bfloat16: 2}
each_width = pytest.mark.parametrize("dtype", WIDTHS, ids=str)


def preset(*overrides: str) -> Config:
    with initialize_config_dir(str(data_dir("conf")), version_base="1.3"):
        return parse(compose("config", list(overrides)))


def a_model(shape: ShapeConfig, dtype: torch.dtype) -> PreTrainedModel:
    sizes = {name: size for name, size in vars(shape).items() if name != "qkv_bias"}
    if shape.qkv_bias:
        return Qwen2ForCausalLM(Qwen2Config(**sizes)).to(dtype)
    return LlamaForCausalLM(LlamaConfig(**sizes)).to(dtype)


def kept_bytes(model: PreTrainedModel) -> int:
    """What autograd keeps for the backward pass of a micro-batch: every storage once, and no weight."""
    tokens = torch.randint(SMALL.vocab_size, (ROWS, LENGTH))
    batch = MicroBatch(tokens, tokens, torch.zeros(ROWS, dtype=torch.bool), 1)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # held, so that no address comes again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        response_nll(model.train(), batch).sum()
    return sum(storage.nbytes() for address, storage in kept.items() if address not in own)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_s_shape_has_the_published_parameters(name: str) -> None:
    assert parameters_of(preset(f"student={name}").student) == pytest.approx(PUBLISHED[name], rel=1e-4)


@pytest.mark.parametrize(
    "shape",
    [
        SMALL,
        ShapeConfig(64, 2, 4, 2, 172, 300, qkv_bias=True),
        ShapeConfig(64, 2, 4, 4, 172, 300, tie_word_embeddings=True, qkv_bias=True),
    ],
)
def test_parameters_are_those_that_transformers_makes(shape: ShapeConfig) -> None:
    assert count_parameters(shape) == a_model(shape, torch.float32).num_parameters()


@each_width
def test_activations_of_full_training_are_what_torch_keeps(dtype: torch.dtype) -> None:
    width, positions = WIDTHS[dtype], ROWS * LENGTH
    loss = LOGITS // 3 * (positions - ROWS) * SMALL.vocab_size  # of the three, what the forward pass leaves
    predicted = positions * full_activations(SMALL, width) + loss
    assert kept_bytes(a_model(SMALL, dtype)) == pytest.approx(predicted, rel=0.05)


@each_width
def test_an_adapter_is_counted_and_keeps_what_torch_keeps(dtype: torch.dtype) -> None:
    lora = LoraConfig(rank=4, dropout=0.0, targets=["q_proj", "v_proj", "o_proj", "down_proj"])
    model = _open_for_training(a_model(SMALL, dtype), SFTConfig(method=Method.lora, lora=lora))
    trained = [p for p in model.parameters() if p.requires_grad]
    assert count_adapter(SMALL, lora) == sum(p.numel() for p in trained)
    adapter = adapter_width(WIDTHS[dtype], "32-true")
    assert {p.element_size() for p in trained} == {adapter}
    positions = ROWS * LENGTH
    loss = LOGITS // 3 * (positions - ROWS) * SMALL.vocab_size
    predicted = positions * lora_activations(SMALL, lora, WIDTHS[dtype], adapter) + loss
    assert kept_bytes(model) == pytest.approx(predicted, rel=0.15)


def test_the_parts_of_a_fit_by_hand() -> None:
    student = StudentConfig(model="m", shape=SMALL, max_length=100)
    memory = memory_of(student, SFTConfig(micro_batch_rows=2), "bf16-true")
    assert memory is not None
    count = count_parameters(SMALL)
    assert (memory.weights, memory.gradients, memory.moments) == (2 * count, 2 * count, 4 * count)
    assert memory.logits == 200 * 300 * 12
    assert memory.total == 8 * count + memory.activations + memory.logits


@pytest.mark.parametrize(
    ("student", "sft", "precision"),
    [
        (StudentConfig(model="m"), SFTConfig(), "32-true"),
        (StudentConfig(model="m", shape=SMALL), SFTConfig(), "bf16-mixed"),
        (
            StudentConfig(model="m", shape=SMALL),
            SFTConfig(method=Method.lora, lora=LoraConfig(targets=["lm_head"])),
            "32-true",
        ),
    ],
)
def test_what_cannot_be_computed_is_said_to_be_unknown(student: StudentConfig, sft: SFTConfig, precision: str) -> None:
    assert memory_of(student, sft, precision) is None
    assert "not known" in memory_in_words(student, sft, precision)


def test_the_advice_fits_the_card_and_twice_its_rows_do_not() -> None:
    student, sft = preset("student=qwen1_5_1_8b").student, SFTConfig(micro_batch_rows=16)
    rows = int(memory_in_words(student, sft, "bf16-true").rpartition("=")[2])
    fits, exceeds = (memory_of(student, SFTConfig(micro_batch_rows=count), "bf16-true") for count in (rows, 2 * rows))
    assert fits is not None
    assert exceeds is not None
    assert fits.total <= CARD_GB * GB < exceeds.total


def test_the_plan_prints_one_line_for_all_jobs_that_need_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--config-name", "lab_delta", "student=qwen1_5_0_5b", "seeds.size=40", "curriculum.rows=20"]
    monkeypatch.setattr(sys, "argv", ["tapir-plan", *arguments])
    with redirect_stdout(io.StringIO()) as out:
        plan.main()
    said = [line for line in out.getvalue().splitlines() if line.startswith("memory of a fit: ")]
    assert len(said) == 1
    assert "computed, not measured" in said[0]
