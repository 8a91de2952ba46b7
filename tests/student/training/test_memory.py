"""The memory of a fit: parameters against published counts, and activations against what torch keeps."""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from tapir_exp.commands import plan
from tapir_exp.commands.hydra_app import data_dir
from tapir_exp.config import (
    ArchitectureConfig,
    Config,
    LoraConfig,
    Method,
    Precision,
    SFTConfig,
    StrategyName,
    StudentConfig,
    TrainerConfig,
    parse,
)
from tapir_exp.core.records import Subset
from tapir_exp.student import cross_entropy, packing
from tapir_exp.student.cross_entropy import weighted_cross_entropy
from tapir_exp.student.packing import pack_attention
from tapir_exp.student.training import memory
from tapir_exp.student.training.adapter import add_adapter, prepare_for_training
from tapir_exp.student.training.batching import MicroBatch, collate
from tapir_exp.student.training.encoded_rows import EncodedRow
from tapir_exp.student.training.lightning_module import head_weights, predicting_states
from tapir_exp.student.training.memory import (
    CARD_GB,
    GB,
    ElementBytes,
    activation_bytes,
    cast_bytes,
    count_adapter,
    count_linear,
    count_parameters,
    describe_memory,
    element_bytes,
    estimate_fit_memory,
    full_block_bytes,
    lora_block_bytes,
    num_parameters,
)
from tapir_exp.student.training.strategies import shard_model

PUBLISHED = {
    "llama2_7b": 6_738_415_616,
    "qwen1_5_0_5b": 463_987_712,
    "qwen1_5_1_8b": 1_836_828_672,
    "qwen1_5_4b": 3_950_369_280,
    "qwen1_5_7b": 7_721_324_544,
    "qwen1_5_14b": 14_167_290_880,
}
"""Parameters of the models' files, as their pages on the hub state them."""
SMALL = ArchitectureConfig(64, 3, 4, 4, 172, 300)
ROWS, LENGTH = 4, 32
TOKENS = ROWS * LENGTH
KINDS = {4: torch.float32, 2: torch.bfloat16}


def preset(*overrides: str) -> Config:
    with initialize_config_dir(str(data_dir("conf")), version_base="1.3"):
        return parse(compose("config", list(overrides)))


def a_model(shape: ArchitectureConfig, dtype: torch.dtype) -> PreTrainedModel:
    sizes = {name: size for name, size in vars(shape).items() if name != "qkv_bias"}
    if shape.qkv_bias:
        return Qwen2ForCausalLM(Qwen2Config(**sizes)).to(dtype)
    return LlamaForCausalLM(LlamaConfig(**sizes)).to(dtype)


class Fit(torch.nn.Module):
    """The part of a fit that the memory is about: from a micro-batch to its loss."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = pack_attention(model.train())

    def loss(self, batch: MicroBatch) -> torch.Tensor:
        states = predicting_states(self.model, batch)
        return weighted_cross_entropy(states, head_weights(self.model), batch.targets, torch.ones(len(batch.targets)))[
            0
        ]


def kept_bytes(fit: Fit, precision: str = "32-true") -> int:
    """What autograd keeps for the backward pass of a micro-batch: every storage once, and no weight."""
    rows = [EncodedRow(tuple(torch.randint(SMALL.vocab_size, (LENGTH,)).tolist()), 1, Subset.REST) for _ in range(ROWS)]
    batch = collate(rows)
    own = {p.untyped_storage().data_ptr() for p in fit.parameters() if not isinstance(p, DTensor)}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # held, so that no address comes again
        return tensor

    mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")
    with mixed, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fit.loss(batch)
    return sum(storage.nbytes() for address, storage in kept.items() if address not in own)


def expected_bytes(widths: ElementBytes, block: int, *, trained: bool, checkpointing: bool = False) -> int:
    """Of the same, by the formulas; the rows' own attention is joined into one on a CPU, which copies its output."""
    kept = TOKENS * activation_bytes(SMALL, widths, block, checkpointing)
    joined = TOKENS * widths.computed * SMALL.hidden_size * (0 if checkpointing else SMALL.num_hidden_layers)
    loss = TOKENS * widths.computed * SMALL.hidden_size + (4 * SMALL.vocab_size * SMALL.hidden_size if trained else 0)
    casts = cast_bytes(SMALL, widths, checkpointing)
    return kept + joined + loss + casts


@pytest.fixture
def _fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention that a GPU has; in half precision a CPU trains with another."""
    monkeypatch.setattr(packing, "_sdpa_backends", lambda query: [SDPBackend.FLASH_ATTENTION])


@pytest.fixture
def alone() -> Iterator[DeviceMesh]:
    """A mesh of this process alone, for which FSDP does all that it does for many."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_the_loss_is_told_of_with_the_chunk_that_it_has() -> None:
    assert vars(memory)["CHUNK_LOGITS"] == vars(cross_entropy)["CHUNK_LOGITS"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_s_shape_has_the_published_parameters(name: str) -> None:
    assert num_parameters(preset(f"student={name}").student) == pytest.approx(PUBLISHED[name], rel=1e-4)


@pytest.mark.parametrize(
    "shape",
    [
        SMALL,
        ArchitectureConfig(64, 2, 4, 2, 172, 300, qkv_bias=True),
        ArchitectureConfig(64, 2, 4, 4, 172, 300, tie_word_embeddings=True, qkv_bias=True),
    ],
)
def test_parameters_are_those_that_transformers_makes(shape: ArchitectureConfig) -> None:
    assert count_parameters(shape) == a_model(shape, torch.float32).num_parameters()


@pytest.mark.usefixtures("_fused")
@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "bf16-mixed"])
def test_activations_of_full_training_are_what_torch_keeps(precision: str) -> None:
    widths = element_bytes(StudentConfig(model="m"), Method.full, precision)
    assert widths is not None
    model = a_model(SMALL, KINDS[widths.stored])
    expected = expected_bytes(widths, full_block_bytes(SMALL, widths), trained=True)
    assert kept_bytes(Fit(model), precision) == pytest.approx(expected, rel=0.05)


@pytest.mark.usefixtures("_fused")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fsdp_keeps_no_gathered_block_and_no_wider_stream(alone: DeviceMesh, precision: str) -> None:
    width = 2 if precision == "bf16-mixed" else 4
    fit = Fit(a_model(SMALL, torch.float32))
    shard_model(fit, fit.model, "loss", alone, mixed=width == 2)
    widths = ElementBytes(width, width, 4, width)
    expected = expected_bytes(widths, full_block_bytes(SMALL, widths), trained=True)
    assert kept_bytes(fit, precision) == pytest.approx(expected, rel=0.05)


@pytest.mark.usefixtures("_fused")
@pytest.mark.parametrize(
    ("stored", "precision"), [("float32", "32-true"), ("bfloat16", "32-true"), ("bfloat16", "bf16-mixed")]
)
def test_an_adapter_is_counted_and_keeps_what_torch_keeps(stored: str, precision: str) -> None:
    lora = LoraConfig(rank=4, dropout=0.0, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"])
    widths = element_bytes(StudentConfig(model="m", precision=Precision(stored)), Method.lora, precision)
    assert widths is not None
    model = add_adapter(a_model(SMALL, KINDS[widths.stored]), lora)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert count_adapter(SMALL, lora) == sum(p.numel() for p in trained)
    assert {p.element_size() for p in trained} == {widths.adapter}
    expected = expected_bytes(widths, lora_block_bytes(SMALL, lora, widths), trained=False)
    assert kept_bytes(Fit(model), precision) == pytest.approx(expected, rel=0.15)


def test_checkpointing_keeps_the_blocks_inputs() -> None:
    widths = ElementBytes(4, 4, 4, 4)
    model = prepare_for_training(a_model(SMALL, torch.float32), TrainerConfig(activation_checkpointing=True))
    one_block = TOKENS * full_block_bytes(SMALL, widths)  # which is there in the backward pass only
    expected = expected_bytes(widths, full_block_bytes(SMALL, widths), trained=True, checkpointing=True) - one_block
    assert kept_bytes(Fit(model)) == pytest.approx(expected, rel=0.05)


def test_the_parts_of_a_fit_by_hand() -> None:
    student = StudentConfig(model="m", architecture=SMALL)
    memory = estimate_fit_memory(
        student, SFTConfig(max_tokens_per_micro_batch=200), TrainerConfig(precision="bf16-true")
    )
    assert memory is not None
    count = count_parameters(SMALL)
    assert (memory.weights, memory.gradients, memory.moments) == (2 * count, 2 * count, 4 * count)
    assert memory.loss == 200 * 300 * (4 + 4 + 2) + 200 * 64 * 2 + 300 * 64 * 4
    assert memory.total == 8 * count + memory.activations + memory.loss


def test_mixed_precision_trains_float32_and_casts_what_it_multiplies() -> None:
    student = StudentConfig(model="m", architecture=SMALL, precision=Precision.bfloat16)
    memory = estimate_fit_memory(student, SFTConfig(), TrainerConfig(precision="bf16-mixed"))
    assert memory is not None
    count = count_parameters(SMALL)
    assert memory.weights == 4 * count + 2 * count_linear(SMALL)
    assert (memory.gradients, memory.moments) == (4 * count, 8 * count)


@pytest.mark.parametrize("tied", [False, True])
def test_fsdp_divides_what_is_kept_and_gathers_two_blocks(tied: bool) -> None:
    shape = replace(SMALL, tie_word_embeddings=tied)
    trainer = TrainerConfig(precision="bf16-mixed", strategy=StrategyName.fsdp, devices=4, num_nodes=2)
    memory = estimate_fit_memory(StudentConfig(model="m", architecture=shape), SFTConfig(), trainer)
    assert memory is not None
    model = a_model(shape, torch.float32)
    count, layer = model.num_parameters(), sum(p.numel() for p in model.model.layers[0].parameters())
    around = count - 3 * layer - 64  # without the last norm
    assert memory.weights == 4 * count // 8 + 2 * (around + 2 * (count - around) // 3)
    assert (memory.gradients, memory.moments) == (4 * count // 8, 8 * count // 8)
    computed = ElementBytes(2, 2, 4, 2)
    kept = activation_bytes(shape, computed, full_block_bytes(shape, computed), checkpointing=False)
    assert memory.activations == SFTConfig().max_tokens_per_micro_batch * kept


def test_ddp_needs_on_each_device_what_one_needs() -> None:
    student, sft = preset("student=qwen1_5_0_5b").student, SFTConfig()
    one, four = (estimate_fit_memory(student, sft, TrainerConfig(strategy=StrategyName.ddp, devices=n)) for n in (1, 4))
    assert one == four
    assert "on each of 4 devices" in describe_memory(student, sft, TrainerConfig(devices=4))


@pytest.mark.parametrize("name", ["llama2_7b", "qwen1_5_14b"])
def test_a_model_that_is_too_large_for_one_device_is_told_on_how_many_it_fits(name: str) -> None:
    student, sft, trainer = preset(f"student={name}").student, SFTConfig(), TrainerConfig(precision="bf16-mixed")
    said = re.search(r"trainer=fsdp trainer\.devices=(\d)", describe_memory(student, sft, trainer))
    assert said is not None
    enough = int(said[1])
    fits, exceeds = (
        estimate_fit_memory(student, sft, replace(trainer, strategy=StrategyName.fsdp, devices=n))
        for n in (enough, enough // 2)
    )
    assert fits is not None
    assert exceeds is not None
    assert fits.total <= CARD_GB * GB < exceeds.total


def test_checkpointing_takes_less() -> None:
    student = preset("student=llama2_7b").student
    least, most = (
        estimate_fit_memory(student, SFTConfig(), TrainerConfig(precision="bf16-true", activation_checkpointing=choice))
        for choice in (True, False)
    )
    assert least is not None
    assert most is not None
    assert least.activations < most.activations / 10
    assert least.weights == most.weights


@pytest.mark.parametrize(
    ("student", "sft", "trainer"),
    [
        (StudentConfig(model="m"), SFTConfig(), TrainerConfig()),
        (StudentConfig(model="m", architecture=SMALL), SFTConfig(), TrainerConfig(precision="64-true")),
        (StudentConfig(model="m", architecture=SMALL), SFTConfig(), TrainerConfig(strategy=StrategyName.deepspeed)),
        (
            StudentConfig(model="m", architecture=SMALL),
            SFTConfig(method=Method.lora, lora=LoraConfig(target_modules=["lm_head"])),
            TrainerConfig(),
        ),
    ],
)
def test_what_cannot_be_computed_is_said_to_be_unknown(
    student: StudentConfig, sft: SFTConfig, trainer: TrainerConfig
) -> None:
    assert estimate_fit_memory(student, sft, trainer) is None
    assert "not known" in describe_memory(student, sft, trainer)


def test_the_advice_fits_the_card_and_twice_its_tokens_do_not() -> None:
    student, trainer = preset("student=qwen1_5_1_8b").student, TrainerConfig(precision="bf16-true")
    said = describe_memory(student, SFTConfig(max_tokens_per_micro_batch=2**17), trainer)
    tokens = int(re.search(r"max_tokens_per_micro_batch=(\d+)", said)[1])  # type: ignore[index]
    fits, exceeds = (
        estimate_fit_memory(student, SFTConfig(max_tokens_per_micro_batch=n), trainer) for n in (tokens, 2 * tokens)
    )
    assert fits is not None
    assert exceeds is not None
    assert fits.total <= CARD_GB * GB < exceeds.total


def test_the_plan_prints_one_line_for_all_jobs_that_need_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--config-name", "lab_delta", "student=qwen1_5_0_5b", "seeds.size=40", "curriculum.rows_per_round=20"]
    monkeypatch.setattr(sys, "argv", ["tapir-plan", *arguments])
    with redirect_stdout(io.StringIO()) as out:
        plan.main()
    said = [line for line in out.getvalue().splitlines() if line.startswith("memory of a fit: ")]
    assert len(said) == 1
    assert "computed, not measured" in said[0]
