"""Memory estimates, compared with published parameter counts and with what torch saves."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from tapir_exp.commands import plan
from tapir_exp.config import (
    ArchitectureConfig,
    Config,
    JudgedStudent,
    LoraConfig,
    Method,
    Precision,
    SFTConfig,
    StrategyName,
    StudentConfig,
    TrainerConfig,
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
"""Parameters of the models, as stated on their hub pages."""
SMALL = ArchitectureConfig(64, 3, 4, 4, 172, 300)
ROWS, LENGTH = 4, 32
TOKENS = ROWS * LENGTH
DTYPES = {4: torch.float32, 2: torch.bfloat16}
Compose = Callable[..., Config]


def make_model(arch: ArchitectureConfig, dtype: torch.dtype) -> PreTrainedModel:
    sizes = {name: size for name, size in vars(arch).items() if name != "qkv_bias"}
    if arch.qkv_bias:
        return Qwen2ForCausalLM(Qwen2Config(**sizes)).to(dtype)
    return LlamaForCausalLM(LlamaConfig(**sizes)).to(dtype)


class Fit(torch.nn.Module):
    """The part of a fit that the estimate covers: from a micro-batch to its loss."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = pack_attention(model.train())

    def loss(self, batch: MicroBatch) -> torch.Tensor:
        states, weights = predicting_states(self.model, batch), torch.ones(len(batch.targets))
        return weighted_cross_entropy(states, head_weights(self.model), batch.targets, weights)[0]


def saved_bytes(fit: Fit, precision: str = "32-true") -> int:
    """Return the bytes that autograd saves for the backward pass of a micro-batch, without weights."""
    rows = [EncodedRow(tuple(torch.randint(SMALL.vocab_size, (LENGTH,)).tolist()), 1, Subset.REST) for _ in range(ROWS)]
    batch = collate(rows)
    own = {p.untyped_storage().data_ptr() for p in fit.parameters() if not isinstance(p, DTensor)}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage  # the reference prevents that an address is used again
        return tensor

    mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")
    with mixed, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        fit.loss(batch)
    return sum(storage.nbytes() for address, storage in saved.items() if address not in own)


def expected_bytes(sizes: ElementBytes, block: int, *, trained: bool, checkpointing: bool = False) -> int:
    """Return the estimate of `saved_bytes`. On a CPU, joining the attention outputs of the rows adds a copy."""
    saved = TOKENS * activation_bytes(SMALL, sizes, block, checkpointing)
    joined = TOKENS * sizes.computed * SMALL.hidden_size * (0 if checkpointing else SMALL.num_hidden_layers)
    loss = TOKENS * sizes.computed * SMALL.hidden_size + (4 * SMALL.vocab_size * SMALL.hidden_size if trained else 0)
    casts = cast_bytes(SMALL, sizes, checkpointing)
    return saved + joined + loss + casts


@pytest.fixture
def _fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the attention kernel of a GPU; a CPU has another one for half precision."""
    monkeypatch.setattr(packing, "_sdpa_backends", lambda query: [SDPBackend.FLASH_ATTENTION])


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """Yield a mesh of one process, for which FSDP works as for several."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_the_loss_is_told_of_with_the_chunk_that_it_has() -> None:
    assert vars(memory)["CHUNK_LOGITS"] == vars(cross_entropy)["CHUNK_LOGITS"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_num_parameters_of_presets_are_as_published(name: str, compose_config: Compose) -> None:
    assert num_parameters(compose_config(f"student={name}").student) == pytest.approx(PUBLISHED[name], rel=1e-4)


@pytest.mark.parametrize(
    "arch",
    [
        SMALL,
        ArchitectureConfig(64, 2, 4, 2, 172, 300, qkv_bias=True),
        ArchitectureConfig(64, 2, 4, 4, 172, 300, tie_word_embeddings=True, qkv_bias=True),
    ],
)
def test_count_parameters_matches_transformers(arch: ArchitectureConfig) -> None:
    assert count_parameters(arch) == make_model(arch, torch.float32).num_parameters()


@pytest.mark.usefixtures("_fused")
@pytest.mark.parametrize("precision", ["32-true", "bf16-true", "bf16-mixed"])
def test_activation_bytes_full_matches_torch(precision: str) -> None:
    sizes = element_bytes(StudentConfig(model="m"), Method.full, precision)
    assert sizes is not None
    model = make_model(SMALL, DTYPES[sizes.stored])
    expected = expected_bytes(sizes, full_block_bytes(SMALL, sizes), trained=True)
    assert saved_bytes(Fit(model), precision) == pytest.approx(expected, rel=0.05)


@pytest.mark.usefixtures("_fused")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_activation_bytes_fsdp_matches_torch(mesh: DeviceMesh, precision: str) -> None:
    width = 2 if precision == "bf16-mixed" else 4
    fit = Fit(make_model(SMALL, torch.float32))
    shard_model(fit, fit.model, "loss", mesh, mixed=width == 2)
    sizes = ElementBytes(width, width, 4, width)
    expected = expected_bytes(sizes, full_block_bytes(SMALL, sizes), trained=True)
    assert saved_bytes(fit, precision) == pytest.approx(expected, rel=0.05)


@pytest.mark.usefixtures("_fused")
@pytest.mark.parametrize(
    ("stored", "precision"), [("float32", "32-true"), ("bfloat16", "32-true"), ("bfloat16", "bf16-mixed")]
)
def test_activation_bytes_lora_matches_torch(stored: str, precision: str) -> None:
    lora = LoraConfig(rank=4, dropout=0.0, target_modules=["q_proj", "v_proj", "o_proj", "down_proj"])
    sizes = element_bytes(StudentConfig(model="m", precision=Precision(stored)), Method.lora, precision)
    assert sizes is not None
    model = add_adapter(make_model(SMALL, DTYPES[sizes.stored]), lora)
    trained = [p for p in model.parameters() if p.requires_grad]
    assert count_adapter(SMALL, lora) == sum(p.numel() for p in trained)
    assert {p.element_size() for p in trained} == {sizes.adapter}
    expected = expected_bytes(sizes, lora_block_bytes(SMALL, lora, sizes), trained=False)
    assert saved_bytes(Fit(model), precision) == pytest.approx(expected, rel=0.15)


def test_activation_bytes_checkpointing_matches_torch() -> None:
    sizes = ElementBytes(4, 4, 4, 4)
    model = prepare_for_training(make_model(SMALL, torch.float32), TrainerConfig(activation_checkpointing=True))
    one_block = TOKENS * full_block_bytes(SMALL, sizes)  # recomputed in the backward pass, so not saved
    expected = expected_bytes(sizes, full_block_bytes(SMALL, sizes), trained=True, checkpointing=True) - one_block
    assert saved_bytes(Fit(model)) == pytest.approx(expected, rel=0.05)


def test_estimate_fit_memory_parts_match_the_formulas() -> None:
    student = StudentConfig(model="m", architecture=SMALL)
    memory = estimate_fit_memory(
        student, SFTConfig(max_tokens_per_micro_batch=200), TrainerConfig(precision="bf16-true")
    )
    assert memory is not None
    count = count_parameters(SMALL)
    assert (memory.weights, memory.gradients, memory.moments) == (2 * count, 2 * count, 4 * count)
    assert memory.loss == 200 * 300 * (4 + 4 + 2) + 200 * 64 * 2 + 300 * 64 * 4
    assert memory.total == 8 * count + memory.activations + memory.loss
    averaged = SFTConfig(max_tokens_per_micro_batch=200, judged_student=JudgedStudent.average, average_checkpoints=2)
    with_average = estimate_fit_memory(student, averaged, TrainerConfig(precision="bf16-true"))
    assert with_average == replace(memory, average=4 * count)
    assert with_average.total == memory.total + 4 * count
    assert "average" in describe_memory(student, averaged, TrainerConfig(precision="bf16-true"))


def test_estimate_fit_memory_mixed_precision_counts_casts() -> None:
    student = StudentConfig(model="m", architecture=SMALL, precision=Precision.bfloat16)
    memory = estimate_fit_memory(student, SFTConfig(), TrainerConfig(precision="bf16-mixed"))
    assert memory is not None
    count = count_parameters(SMALL)
    assert memory.weights == 4 * count + 2 * count_linear(SMALL)
    assert (memory.gradients, memory.moments) == (4 * count, 8 * count)


@pytest.mark.parametrize("tied", [False, True])
def test_estimate_fit_memory_fsdp_shards_and_gathers(tied: bool) -> None:
    arch = replace(SMALL, tie_word_embeddings=tied)
    trainer = TrainerConfig(precision="bf16-mixed", strategy=StrategyName.fsdp, devices=4, num_nodes=2)
    memory = estimate_fit_memory(StudentConfig(model="m", architecture=arch), SFTConfig(), trainer)
    assert memory is not None
    model = make_model(arch, torch.float32)
    count, layer = model.num_parameters(), sum(p.numel() for p in model.model.layers[0].parameters())
    around = count - 3 * layer - 64  # without the last norm
    assert memory.weights == 4 * count // 8 + 2 * (around + 2 * (count - around) // 3)
    assert (memory.gradients, memory.moments) == (4 * count // 8, 8 * count // 8)
    computed = ElementBytes(2, 2, 4, 2)
    per_token = activation_bytes(arch, computed, full_block_bytes(arch, computed), checkpointing=False)
    assert memory.activations == SFTConfig().max_tokens_per_micro_batch * per_token


def test_estimate_fit_memory_ddp_equals_one_device(compose_config: Compose) -> None:
    student, sft = compose_config("student=qwen1_5_0_5b").student, SFTConfig()
    one, four = (estimate_fit_memory(student, sft, TrainerConfig(strategy=StrategyName.ddp, devices=n)) for n in (1, 4))
    assert one == four
    assert "on each of 4 devices" in describe_memory(student, sft, TrainerConfig(devices=4))


@pytest.mark.parametrize("name", ["llama2_7b", "qwen1_5_14b"])
def test_describe_memory_proposes_enough_devices(name: str, compose_config: Compose) -> None:
    student = compose_config(f"student={name}").student
    sft, trainer = SFTConfig(), TrainerConfig(precision="bf16-mixed")
    advice = re.search(r"trainer=fsdp trainer\.devices=(\d)", describe_memory(student, sft, trainer))
    assert advice is not None
    enough = int(advice[1])
    fits, exceeds = (
        estimate_fit_memory(student, sft, replace(trainer, strategy=StrategyName.fsdp, devices=n))
        for n in (enough, enough // 2)
    )
    assert fits is not None
    assert exceeds is not None
    assert fits.total <= CARD_GB * GB < exceeds.total


def test_estimate_fit_memory_checkpointing_takes_less(compose_config: Compose) -> None:
    student = compose_config("student=llama2_7b").student
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
def test_estimate_fit_memory_unknown_settings_give_none(
    student: StudentConfig, sft: SFTConfig, trainer: TrainerConfig
) -> None:
    assert estimate_fit_memory(student, sft, trainer) is None
    assert "not known" in describe_memory(student, sft, trainer)


def test_describe_memory_proposes_the_largest_micro_batch(compose_config: Compose) -> None:
    student, trainer = compose_config("student=qwen1_5_1_8b").student, TrainerConfig(precision="bf16-true")
    line = describe_memory(student, SFTConfig(max_tokens_per_micro_batch=2**17), trainer)
    tokens = int(re.search(r"max_tokens_per_micro_batch=(\d+)", line)[1])  # type: ignore[index]
    fits, exceeds = (
        estimate_fit_memory(student, SFTConfig(max_tokens_per_micro_batch=n), trainer) for n in (tokens, 2 * tokens)
    )
    assert fits is not None
    assert exceeds is not None
    assert fits.total <= CARD_GB * GB < exceeds.total


@pytest.mark.slow
def test_plan_prints_equal_memory_lines_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = ["seeds.size=40", "curriculum.rows_per_round=20", "allow_lab_parts=true"]
    arguments = ["--config-name", "lab_delta", "student=qwen1_5_0_5b", *sizes]
    with redirect_stdout(io.StringIO()) as out:
        plan.main(arguments)
    lines = [line for line in out.getvalue().splitlines() if line.startswith("memory of a fit: ")]
    assert len(lines) == 1
    assert "computed, not measured" in lines[0]
