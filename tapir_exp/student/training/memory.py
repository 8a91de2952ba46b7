"""The memory that a fit needs on a device, computed from the student's shape. Pure and ours.

It is the sum of what is alive when the backward pass of a full micro-batch begins: weights, gradients and AdamW's two
moments of what is trained, the activations kept for the backward pass, and what the loss over the vocabulary takes. The
micro-batch has sft.max_tokens_per_micro_batch tokens, all of them supervised: an upper bound for others.
Under ddp every device holds all of that. Under fsdp each holds its part of weights, gradients and moments, and those
weights that are gathered, in the type of their multiplication. DeepSpeed's buffers are not known here.
Not in it: the CUDA context, the workspaces of kernels, what the allocator loses to fragments, and the temporary
gradients of one layer. It holds for fused attention, and not for Liger's kernels, which keep less. What LLaMA2-7B took
of an H200 it told to 1 % (`benchmarks/sft/gpu.py`).
"""

import math
from dataclasses import dataclass, replace

from tapir_exp.config import (
    ArchitectureConfig,
    LoraConfig,
    Method,
    SFTConfig,
    StrategyName,
    StudentConfig,
    TrainerConfig,
)
from tapir_exp.student.constants import CHUNK_LOGITS

GB = 1e9
MIN_PROPOSED_TOKENS = 256
"""Of a micro-batch that is worth proposing."""
CARD_GB = 80
"""Of a common large card; it has 6 % more in bytes, which is left to what is not counted."""
FLOAT32 = 4
BYTES = {"float32": 4, "bfloat16": 2}
"""Of a number, under student.precision."""
HALF = 2
FOUR_BITS = 0.5 + 1 / 64 + FLOAT32 / (64 * 256)
"""Of a weight in NF4: its bits, its block's scale in a byte, and the scale of 256 such scales."""
GATHERED_BLOCKS = 2
"""Of FSDP: the one that is computed, and the next, which is on its way."""
PROPOSED_DEVICES = (2, 4, 8)
"""That are proposed for a model that is too large for one."""


@dataclass(frozen=True)
class ElementBytes:
    """Bytes of a number: weights and the residual stream as stored; what is computed; an adapter's weights, and what
    is computed with them."""

    stored: int
    computed: int
    adapter: int
    adapted: int

    @property
    def mixed(self) -> bool:
        """Whether weights are cast before they are multiplied."""
        return self.stored != self.computed


def element_bytes(student: StudentConfig, method: Method, precision: str) -> ElementBytes | None:
    """Under trainer.precision `precision`; None for one that is not known.

    Mixed precision trains float32 weights, and leaves frozen ones as they are; peft makes adapters float32, and under
    qlora all of the base that is not in 4 bits; Lightning's true precisions convert everything.
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
    """Bytes on one device at a fit's peak; `weights` with those that are there a second time, cast or gathered."""

    weights: int
    gradients: int
    moments: int
    activations: int
    loss: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.held + self.activations + self.loss

    @property
    def held(self) -> int:
        """What does not depend on the micro-batch."""
        return self.weights + self.gradients + self.moments


def estimate_fit_memory(student: StudentConfig, sft: SFTConfig, trainer: TrainerConfig) -> FitMemory | None:
    """The peak of a fit on each of its devices.

    None where the shape or the precision is not known, where an adapter's target is no linear layer of a block by its
    bare name, and for DeepSpeed.
    """
    shape, widths = student.architecture, element_bytes(student, sft.method, trainer.precision)
    full = sft.method is Method.full
    if (
        widths is None
        or not _is_complete(shape)
        or not (full or set(sft.lora.target_modules) <= set(_linear_sizes(shape)))
    ):
        return None
    if trainer.strategy is StrategyName.deepspeed:
        return None
    parts = _num_shards(trainer)
    copies = _copies_bytes(shape, widths, sft.method, trainer)
    base = _base_bytes(shape, widths, sft.method)
    trained = count_parameters(shape) * widths.stored if full else count_adapter(shape, sft.lora) * widths.adapter
    if parts > 1:  # what is gathered is cast on its way, so the residual stream is no wider
        widths = replace(widths, stored=widths.computed)
    block = full_block_bytes(shape, widths) if full else lora_block_bytes(shape, sft.lora, widths)
    return FitMemory(
        weights=(base + (0 if full else trained)) // parts + copies,
        gradients=trained // parts,
        moments=2 * trained // parts,
        activations=sft.max_tokens_per_micro_batch
        * activation_bytes(shape, widths, block, trainer.activation_checkpointing),
        loss=loss_bytes(shape, sft.max_tokens_per_micro_batch, widths.computed, trained=full),
    )


def describe_memory(student: StudentConfig, sft: SFTConfig, trainer: TrainerConfig) -> str:
    """One line: the peak, its parts, and what to change where a common card has less."""
    memory = estimate_fit_memory(student, sft, trainer)
    if memory is None:
        settings = "student.architecture, trainer.precision, trainer.strategy and sft.lora.target_modules"
        return f"memory of a fit: not known; see {settings}"
    parts = {"weights": memory.weights, "gradients": memory.gradients, "AdamW": memory.moments}
    parts |= {"activations": memory.activations, "loss": memory.loss}
    told = ", ".join(f"{name} {size / GB:.1f}" for name, size in parts.items())
    devices = trainer.devices * trainer.num_nodes
    where = "one device" if devices == 1 else f"each of {devices} devices"
    line = f"memory of a fit: {memory.total / GB:.1f} GB on {where} ({told}), computed, not measured"
    return line if memory.total <= CARD_GB * GB else f"{line}; {_advice(memory, student, sft, trainer)}"


def num_parameters(student: StudentConfig) -> float | None:
    """How many parameters the student has, as its configuration says or as its shape tells; None for not known."""
    if student.num_parameters is not None or not _is_complete(student.architecture):
        return student.num_parameters
    return count_parameters(student.architecture)


def count_parameters(shape: ArchitectureConfig) -> int:
    """Weights of a model; tied embeddings count once."""
    hidden = shape.hidden_size
    biases = hidden + 2 * _key_value_size(shape) if shape.qkv_bias else 0
    block = sum(wide * high for wide, high in _linear_sizes(shape).values()) + biases + 2 * hidden
    tables = 1 if shape.tie_word_embeddings else 2
    return tables * shape.vocab_size * hidden + shape.num_hidden_layers * block + hidden


def count_adapter(shape: ArchitectureConfig, lora: LoraConfig) -> int:
    """Weights of a low-rank adapter, whose targets are linear layers of a block."""
    sizes = _linear_sizes(shape)
    return shape.num_hidden_layers * lora.rank * sum(sum(sizes[target]) for target in lora.target_modules)


def count_linear(shape: ArchitectureConfig) -> int:
    """Weights that are multiplied: those of the blocks' linear layers and of the output layer."""
    block = sum(wide * high for wide, high in _linear_sizes(shape).values())
    return shape.num_hidden_layers * block + shape.vocab_size * shape.hidden_size


def cast_bytes(shape: ArchitectureConfig, widths: ElementBytes, checkpointing: bool) -> int:
    """Copies of weights in the type of their multiplication, which live as long as the backward pass may need them.

    With checkpointing it is those of one block and of the output layer.
    """
    if not widths.mixed:
        return 0
    head = shape.vocab_size * shape.hidden_size
    blocks = count_linear(shape) - head
    return widths.computed * (head + (blocks // shape.num_hidden_layers if checkpointing else blocks))


def activation_bytes(shape: ArchitectureConfig, widths: ElementBytes, block: int, checkpointing: bool) -> int:
    """Bytes per token that the backward pass needs, up to the loss; `block`: of one block.

    With checkpointing a block keeps its input, and one block at a time everything.
    """
    blocks = shape.num_hidden_layers * block
    if checkpointing:
        blocks = shape.num_hidden_layers * widths.stored * shape.hidden_size + block
    return blocks + (FLOAT32 + widths.stored) * shape.hidden_size  # the last norm's output is the loss's


def full_block_bytes(shape: ArchitectureConfig, widths: ElementBytes) -> int:
    """Bytes per token that the backward pass of full fine-tuning needs of a block.

    Two norms; attention, which keeps queries, keys, values, its output, and a float32 per head; the MLP, which keeps
    the gate, the gate under SiLU, the other branch, and their product. In mixed precision each of the five linear
    layers after a norm keeps its own cast of what the norm gives.
    """
    casts = 5 * widths.computed * shape.hidden_size if widths.mixed else 0
    return 2 * _norm(shape, widths) + casts + _attention(shape, widths) + 4 * widths.computed * shape.intermediate_size


def lora_block_bytes(shape: ArchitectureConfig, lora: LoraConfig, widths: ElementBytes) -> int:
    """Bytes per token that the backward pass of an adapter needs of a block.

    Frozen layers keep what their inputs' gradients need: no input of a linear layer, and of a norm the float32 only.
    Each target keeps its own input as the adapter multiplies it, its low-rank value, and a byte of dropout's mask.
    """
    inputs = sum(_linear_sizes(shape)[target][0] for target in lora.target_modules)
    mask = 1 if lora.dropout else 0
    added = (widths.adapted + mask) * inputs + widths.adapted * lora.rank * len(lora.target_modules)
    frozen = 2 * FLOAT32 * shape.hidden_size + 3 * widths.computed * shape.intermediate_size
    return frozen + _attention(shape, widths) + added


def loss_bytes(shape: ArchitectureConfig, tokens: int, width: int, *, trained: bool) -> int:
    """What the loss has at its peak: a chunk's logits, their softmax and its cast, and the gradients it leaves."""
    chunk = min(tokens, max(1, CHUNK_LOGITS // shape.vocab_size))
    at_once = chunk * shape.vocab_size * (2 * FLOAT32 + (width if width == HALF else 0))
    head = FLOAT32 * shape.vocab_size * shape.hidden_size if trained else 0
    return at_once + tokens * width * shape.hidden_size + head


def gathered_bytes(shape: ArchitectureConfig, widths: ElementBytes) -> int:
    """Weights that FSDP has put together at once: the embeddings and the output layer throughout, and a few blocks."""
    tables = (1 if shape.tie_word_embeddings else 2) * shape.vocab_size * shape.hidden_size
    block = (count_parameters(shape) - tables) // shape.num_hidden_layers
    return widths.computed * (tables + min(GATHERED_BLOCKS, shape.num_hidden_layers) * block)


def _num_shards(trainer: TrainerConfig) -> int:
    """Among how many devices everything that a step keeps is divided."""
    return trainer.devices * trainer.num_nodes if trainer.strategy is StrategyName.fsdp else 1


def _copies_bytes(shape: ArchitectureConfig, widths: ElementBytes, method: Method, trainer: TrainerConfig) -> int:
    """Weights that are there a second time: gathered, or cast; 4 bits are unpacked a layer at a time."""
    if _num_shards(trainer) > 1:
        return gathered_bytes(shape, widths)
    return 0 if method is Method.qlora else cast_bytes(shape, widths, trainer.activation_checkpointing)


def _base_bytes(shape: ArchitectureConfig, widths: ElementBytes, method: Method) -> int:
    if method is Method.qlora:
        in_blocks = count_linear(shape) - shape.vocab_size * shape.hidden_size
        return int(FOUR_BITS * in_blocks) + widths.stored * (count_parameters(shape) - in_blocks)
    return widths.stored * count_parameters(shape)


def _norm(shape: ArchitectureConfig, widths: ElementBytes) -> int:
    """A norm keeps its input in float32, its normalised value, and its output, which the layers after it share.

    In mixed precision they share nothing, since each casts it.
    """
    return (FLOAT32 + (widths.stored if widths.mixed else 2 * widths.stored)) * shape.hidden_size


def _attention(shape: ArchitectureConfig, widths: ElementBytes) -> int:
    return widths.computed * 2 * (shape.hidden_size + _key_value_size(shape)) + FLOAT32 * shape.num_attention_heads


def _linear_sizes(shape: ArchitectureConfig) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the linear layers of a block, by name."""
    hidden, inner, pair = shape.hidden_size, shape.intermediate_size, _key_value_size(shape)
    return {
        "q_proj": (hidden, hidden),
        "k_proj": (hidden, pair),
        "v_proj": (hidden, pair),
        "o_proj": (hidden, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def _key_value_size(shape: ArchitectureConfig) -> int:
    return shape.hidden_size // shape.num_attention_heads * shape.num_key_value_heads


def _is_complete(shape: ArchitectureConfig) -> bool:
    attention = (shape.num_attention_heads, shape.num_key_value_heads)
    return all((shape.hidden_size, shape.num_hidden_layers, *attention, shape.intermediate_size, shape.vocab_size))


def _advice(memory: FitMemory, student: StudentConfig, sft: SFTConfig, trainer: TrainerConfig) -> str:
    """What to change, from what makes the least difference to the results."""
    fitting = int(sft.max_tokens_per_micro_batch * (CARD_GB * GB - memory.held) / (memory.total - memory.held))
    if fitting >= MIN_PROPOSED_TOKENS:
        tokens = 2 ** int(math.log2(fitting))
        return (
            f"for {CARD_GB} GB take sft.max_tokens_per_micro_batch={tokens}, or trainer.activation_checkpointing=true"
        )
    said = [f"no micro-batch fits {CARD_GB} GB"]
    devices = _min_devices(student, sft, trainer)
    if devices is not None:
        said.append(f"try trainer=fsdp trainer.devices={devices}")
    smaller = {Method.full: ["try sft=lora"], Method.lora: ["try sft=qlora"], Method.qlora: []}
    return "; ".join(said + smaller[sft.method])


def _min_devices(student: StudentConfig, sft: SFTConfig, trainer: TrainerConfig) -> int | None:
    """The least number of devices of one machine among which fsdp divides a fit that then fits; None for none."""
    if sft.method is Method.qlora:
        return None
    for devices in PROPOSED_DEVICES:
        divided = replace(trainer, strategy=StrategyName.fsdp, devices=devices, num_nodes=1)
        memory = estimate_fit_memory(student, sft, divided)
        if memory is not None and memory.total <= CARD_GB * GB:
            return devices
    return None
