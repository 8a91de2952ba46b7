"""Estimate the memory of a fit on each device from the architecture of the student, without loading it.

The estimate is the memory in use when the backward pass of a full micro-batch begins. It includes the weights, and the
gradients and the two AdamW moments of trained parameters. It also includes the activations saved for the backward pass,
and the loss over the vocabulary. It assumes that all `sft.max_tokens_per_micro_batch` tokens are supervised, so it is
an upper bound for other batches.

- ddp: each device holds all of it.
- fsdp: each device holds its shard of weights, gradients and moments, and the weights that are gathered at a time.
- deepspeed: not estimated, since the sizes of its buffers are not known here.

Not included are the CUDA context, workspaces of kernels, fragmentation, and the temporary gradients of one layer. The
formulas assume fused attention; Liger's kernels save less. For LLaMA2-7B on an H200 the estimate was within 1 % of the
measurement (`benchmarks/sft/gpu.py`).
"""

import math
from dataclasses import dataclass, replace

from tapir_exp.config import (
    ArchitectureConfig,
    JudgedStudent,
    LoraConfig,
    Method,
    SFTConfig,
    StrategyName,
    StudentConfig,
    TrainerConfig,
)
from tapir_exp.student.architecture import with_architecture
from tapir_exp.student.constants import CHUNK_LOGITS

GB = 1e9
MIN_PROPOSED_TOKENS = 256
"""Smallest micro-batch that the advice proposes."""
CARD_GB = 80
"""Memory of a common large GPU, in GB. Such a card has 6 % more bytes, a margin for what is not included."""
FLOAT32 = 4
BYTES = {"float32": 4, "bfloat16": 2}
"""Bytes of a number, by student.precision."""
HALF = 2
FOUR_BITS = 0.5 + 1 / 64 + FLOAT32 / (64 * 256)
"""Bytes of an NF4 weight: 4 bits, a one-byte scale per block of 64, and a float32 scale per 256 of those scales."""
GATHERED_BLOCKS = 2
"""Blocks that FSDP holds at a time: the current one, and the prefetched next one."""
PROPOSED_DEVICES = (2, 4, 8)
"""Numbers of devices that the advice proposes."""


@dataclass(frozen=True)
class ElementBytes:
    """Bytes of one number, by use.

    Attributes:
        stored: Weights of the model, and the residual stream.
        computed: Inputs and outputs of matrix multiplications.
        adapter: Weights of an adapter.
        adapted: Inputs and outputs of an adapter's matrix multiplications.
    """

    stored: int
    computed: int
    adapter: int
    adapted: int

    @property
    def mixed(self) -> bool:
        """Return whether weights are cast before they are multiplied."""
        return self.stored != self.computed


def element_bytes(student: StudentConfig, method: Method, precision: str) -> ElementBytes | None:
    """Return the sizes of numbers under a value of trainer.precision; None for an unknown value.

    Mixed precision trains float32 weights and leaves frozen ones as they are. PEFT creates adapters in float32, and
    QLoRA also converts what is not quantized. Lightning's true precisions convert everything.
    """
    stored = FLOAT32 if method is Method.qlora else BYTES[student.precision.value]
    match precision:
        case "32-true":
            return ElementBytes(stored, stored, FLOAT32, FLOAT32)
        case "bf16-true" | "16-true":
            return ElementBytes(HALF, HALF, HALF, HALF)
        case "bf16-mixed" | "16-mixed":
            return ElementBytes(FLOAT32 if method is Method.full else stored, HALF, FLOAT32, HALF)
    return None


@dataclass(frozen=True)
class FitMemory:
    """Peak memory of a fit on one device, in bytes.

    Attributes:
        weights: Weights, with their cast or gathered copies.
        gradients: Gradients of trained parameters.
        moments: First and second moments of AdamW.
        activations: Activations saved for the backward pass.
        loss: Logits and their gradients.
        average: Sum of the trained weights, for an average of checkpoints.
    """

    weights: int
    gradients: int
    moments: int
    activations: int
    loss: int
    average: int = 0

    @property
    def total(self) -> int:
        """Return the sum of all parts."""
        return self.fixed + self.activations + self.loss

    @property
    def fixed(self) -> int:
        """Return the part that does not depend on the micro-batch."""
        return self.weights + self.gradients + self.moments + self.average


def estimate_fit_memory(student: StudentConfig, sft: SFTConfig, trainer: TrainerConfig) -> FitMemory | None:
    """Return the peak memory of a fit on each of its devices.

    The result is None for DeepSpeed, and if the architecture or the precision is not known. It is also None if an
    adapter's target is not the name of a linear layer of a block.
    """
    student = with_architecture(student)
    arch, sizes = student.architecture, element_bytes(student, sft.method, trainer.precision)
    full = sft.method is Method.full
    if sizes is None or not _is_complete(arch) or trainer.strategy is StrategyName.deepspeed:
        return None
    if not full and not set(sft.lora.target_modules) <= set(_linear_sizes(arch)):
        return None
    shards = _num_shards(trainer)
    elements = count_parameters(arch) if full else count_adapter(arch, sft.lora)
    copies = _copies_bytes(arch, sizes, sft.method, trainer)
    base = _base_bytes(arch, sizes, sft.method)
    trained = elements * (sizes.stored if full else sizes.adapter)
    if shards > 1:  # FSDP casts weights as it gathers them, so the residual stream has the computed precision
        sizes = replace(sizes, stored=sizes.computed)
    block = full_block_bytes(arch, sizes) if full else lora_block_bytes(arch, sft.lora, sizes)
    per_token = activation_bytes(arch, sizes, block, trainer.activation_checkpointing)
    return FitMemory(
        weights=(base + (0 if full else trained)) // shards + copies,
        gradients=trained // shards,
        moments=2 * trained // shards,
        activations=sft.max_tokens_per_micro_batch * per_token,
        loss=loss_bytes(arch, sft.max_tokens_per_micro_batch, sizes.computed, trained=full),
        average=FLOAT32 * elements if sft.judged_student is JudgedStudent.average else 0,
    )


def describe_memory(student: StudentConfig, sft: SFTConfig, trainer: TrainerConfig) -> str:
    """Return one line with the peak memory and its parts, and advice if it exceeds a common card."""
    memory = estimate_fit_memory(student, sft, trainer)
    if memory is None:
        settings = "student.architecture, trainer.precision, trainer.strategy and sft.lora.target_modules"
        return f"memory of a fit: not known; see {settings}"
    parts = {"weights": memory.weights, "gradients": memory.gradients, "AdamW": memory.moments}
    parts |= {"average": memory.average} if memory.average else {}
    parts |= {"activations": memory.activations, "loss": memory.loss}
    summary = ", ".join(f"{name} {size / GB:.1f}" for name, size in parts.items())
    devices = trainer.devices * trainer.num_nodes
    scope = "one device" if devices == 1 else f"each of {devices} devices"
    line = f"memory of a fit: {memory.total / GB:.1f} GB on {scope} ({summary}), computed, not measured"
    return line if memory.total <= CARD_GB * GB else f"{line}; {_advice(memory, student, sft, trainer)}"


def num_parameters(student: StudentConfig) -> float | None:
    """Return the number of parameters, as configured or by the architecture; None if neither is known."""
    student = with_architecture(student)
    if student.num_parameters is not None or not _is_complete(student.architecture):
        return student.num_parameters
    return count_parameters(student.architecture)


def count_parameters(arch: ArchitectureConfig) -> int:
    """Return the number of weights of a model. Tied embeddings count once."""
    hidden = arch.hidden_size
    biases = hidden + 2 * _key_value_size(arch) if arch.qkv_bias else 0
    block = sum(inputs * outputs for inputs, outputs in _linear_sizes(arch).values()) + biases + 2 * hidden
    tables = 1 if arch.tie_word_embeddings else 2
    return tables * arch.vocab_size * hidden + arch.num_hidden_layers * block + hidden  # + the last norm


def count_adapter(arch: ArchitectureConfig, lora: LoraConfig) -> int:
    """Return the number of weights of a low-rank adapter on linear layers of the blocks."""
    sizes = _linear_sizes(arch)
    return arch.num_hidden_layers * lora.rank * sum(sum(sizes[target]) for target in lora.target_modules)


def count_linear(arch: ArchitectureConfig) -> int:
    """Return the number of weights in matrix multiplications: linear layers of the blocks, and the output layer."""
    block = sum(inputs * outputs for inputs, outputs in _linear_sizes(arch).values())
    return arch.num_hidden_layers * block + arch.vocab_size * arch.hidden_size


def cast_bytes(arch: ArchitectureConfig, sizes: ElementBytes, checkpointing: bool) -> int:
    """Return the bytes of weights cast for multiplication, which autograd keeps until their backward pass.

    With activation checkpointing, these are the casts of one block and of the output layer.
    """
    if not sizes.mixed:
        return 0
    head = arch.vocab_size * arch.hidden_size
    blocks = count_linear(arch) - head
    return sizes.computed * (head + (blocks // arch.num_hidden_layers if checkpointing else blocks))


def activation_bytes(arch: ArchitectureConfig, sizes: ElementBytes, block: int, checkpointing: bool) -> int:
    """Return the bytes per token that the backward pass needs, without the loss.

    With activation checkpointing, each block saves its input, and one block at a time saves everything.

    Args:
        arch: Architecture of the model.
        sizes: Bytes of a number.
        block: Bytes per token that one block saves.
        checkpointing: Whether activation checkpointing is on.
    """
    blocks = arch.num_hidden_layers * block
    if checkpointing:
        blocks = arch.num_hidden_layers * sizes.stored * arch.hidden_size + block
    return blocks + (FLOAT32 + sizes.stored) * arch.hidden_size  # the last norm, its output is part of the loss


def full_block_bytes(arch: ArchitectureConfig, sizes: ElementBytes) -> int:
    """Return the bytes per token that a block saves in full fine-tuning.

    These are two norms, attention, and four tensors of the MLP: the gate, the gate after SiLU, the other branch, and
    their product. In mixed precision, each of the five linear layers after a norm saves its own cast of its input.
    """
    casts = 5 * sizes.computed * arch.hidden_size if sizes.mixed else 0
    mlp = 4 * sizes.computed * arch.intermediate_size
    return 2 * _norm_bytes(arch, sizes) + casts + _attention_bytes(arch, sizes) + mlp


def lora_block_bytes(arch: ArchitectureConfig, lora: LoraConfig, sizes: ElementBytes) -> int:
    """Return the bytes per token that a block saves in adapter training.

    Frozen layers save what the gradients of their inputs need: nothing for a linear layer, and the float32 input of a
    norm. Each target also saves its adapter's input, its low-rank activation, and a byte of the dropout mask.
    """
    inputs = sum(_linear_sizes(arch)[target][0] for target in lora.target_modules)
    mask = 1 if lora.dropout else 0
    added = (sizes.adapted + mask) * inputs + sizes.adapted * lora.rank * len(lora.target_modules)
    frozen = 2 * FLOAT32 * arch.hidden_size + 3 * sizes.computed * arch.intermediate_size
    return frozen + _attention_bytes(arch, sizes) + added


def loss_bytes(arch: ArchitectureConfig, tokens: int, width: int, *, trained: bool) -> int:
    """Return the bytes of the loss at its peak: the logits of a chunk, their softmax and cast, and the gradients.

    Args:
        arch: Architecture of the model.
        tokens: Supervised tokens of the micro-batch.
        width: Bytes of a computed number.
        trained: Whether the output layer is trained.
    """
    chunk = min(tokens, max(1, CHUNK_LOGITS // arch.vocab_size))
    at_once = chunk * arch.vocab_size * (2 * FLOAT32 + (width if width == HALF else 0))
    head = FLOAT32 * arch.vocab_size * arch.hidden_size if trained else 0
    return at_once + tokens * width * arch.hidden_size + head


def gathered_bytes(arch: ArchitectureConfig, sizes: ElementBytes) -> int:
    """Return the bytes of weights that FSDP holds gathered: the embeddings, the output layer, and a few blocks."""
    tables = (1 if arch.tie_word_embeddings else 2) * arch.vocab_size * arch.hidden_size
    block = (count_parameters(arch) - tables) // arch.num_hidden_layers
    return sizes.computed * (tables + min(GATHERED_BLOCKS, arch.num_hidden_layers) * block)


def _num_shards(trainer: TrainerConfig) -> int:
    """Return the number of devices that weights, gradients and moments are divided among."""
    return trainer.devices * trainer.num_nodes if trainer.strategy is StrategyName.fsdp else 1


def _copies_bytes(arch: ArchitectureConfig, sizes: ElementBytes, method: Method, trainer: TrainerConfig) -> int:
    """Return the bytes of second copies of weights: gathered by FSDP, or cast for multiplication."""
    if _num_shards(trainer) > 1:
        return gathered_bytes(arch, sizes)
    # QLoRA dequantizes one layer at a time, which is not counted.
    return 0 if method is Method.qlora else cast_bytes(arch, sizes, trainer.activation_checkpointing)


def _base_bytes(arch: ArchitectureConfig, sizes: ElementBytes, method: Method) -> int:
    if method is Method.qlora:  # embeddings, norms and the output layer are not quantized
        in_blocks = count_linear(arch) - arch.vocab_size * arch.hidden_size
        return int(FOUR_BITS * in_blocks) + sizes.stored * (count_parameters(arch) - in_blocks)
    return sizes.stored * count_parameters(arch)


def _norm_bytes(arch: ArchitectureConfig, sizes: ElementBytes) -> int:
    """Return the bytes per token that a norm saves.

    These are its input in float32, the normalised value, and its output, which the layers after it share. In mixed
    precision those layers cast the output, so nothing is shared.
    """
    return (FLOAT32 + (sizes.stored if sizes.mixed else 2 * sizes.stored)) * arch.hidden_size


def _attention_bytes(arch: ArchitectureConfig, sizes: ElementBytes) -> int:
    """Return the bytes per token of queries, keys, values, output, and a float32 per head (the log-sum-exp)."""
    return sizes.computed * 2 * (arch.hidden_size + _key_value_size(arch)) + FLOAT32 * arch.num_attention_heads


def _linear_sizes(arch: ArchitectureConfig) -> dict[str, tuple[int, int]]:
    """Return the input and output sizes of the linear layers of a block, by name."""
    hidden, inner, key_value = arch.hidden_size, arch.intermediate_size, _key_value_size(arch)
    return {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, key_value),
        "v_proj": (hidden, key_value),
        "o_proj": (hidden, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def _key_value_size(arch: ArchitectureConfig) -> int:
    return arch.hidden_size // arch.num_attention_heads * arch.num_key_value_heads


def _is_complete(arch: ArchitectureConfig) -> bool:
    heads = (arch.num_attention_heads, arch.num_key_value_heads)
    return all((arch.hidden_size, arch.num_hidden_layers, *heads, arch.intermediate_size, arch.vocab_size))


def _advice(memory: FitMemory, student: StudentConfig, sft: SFTConfig, trainer: TrainerConfig) -> str:
    """Return settings that reduce the memory, those with the least effect on the results first."""
    fitting = int(sft.max_tokens_per_micro_batch * (CARD_GB * GB - memory.fixed) / (memory.total - memory.fixed))
    if fitting >= MIN_PROPOSED_TOKENS:
        tokens = 2 ** int(math.log2(fitting))
        return f"for {CARD_GB} GB use sft.max_tokens_per_micro_batch={tokens}, or trainer.activation_checkpointing=true"
    advice = [f"no micro-batch fits {CARD_GB} GB"]
    devices = _min_devices(student, sft, trainer)
    if devices is not None:
        advice.append(f"try trainer=fsdp trainer.devices={devices}")
    smaller_method = {Method.full: ["try sft=lora"], Method.lora: ["try sft=qlora"], Method.qlora: []}
    return "; ".join(advice + smaller_method[sft.method])


def _min_devices(student: StudentConfig, sft: SFTConfig, trainer: TrainerConfig) -> int | None:
    """Return the smallest proposed number of devices on which the fit has enough memory under fsdp, or None."""
    if sft.method is Method.qlora:  # FSDP cannot shard 4-bit weights
        return None
    for devices in PROPOSED_DEVICES:
        sharded = replace(trainer, strategy=StrategyName.fsdp, devices=devices, num_nodes=1)
        memory = estimate_fit_memory(student, sft, sharded)
        if memory is not None and memory.total <= CARD_GB * GB:
            return devices
    return None
