"""The memory that a fit needs on its one device, computed from the student's shape. Pure, ours, measured on no GPU.

It is the sum of what is alive when the backward pass of a full micro-batch begins: weights, gradients and AdamW's two
moments of what is trained, the activations kept for the backward pass, and what the loss over the vocabulary takes. The
micro-batch has sft.micro_batch_tokens tokens, all of them supervised: an upper bound for others.
Not in it: the CUDA context, the workspaces of kernels, what the allocator loses to fragments, and the temporary
gradients of one layer. It holds for fused attention and no activation checkpointing, which is how the fit trains.
"""

from dataclasses import dataclass

from tapir_exp.config import LoraConfig, Method, SFTConfig, ShapeConfig, StudentConfig

GB = 1e9
CARD_GB = 80
"""Of a common large card; it has 6 % more in bytes, which is left to what is not counted."""
FLOAT32 = 4
BYTES = {"float32": 4, "bfloat16": 2, "16-true": 2, "bf16-true": 2}
"""Of a number, under student.precision and under those of trainer.precision that convert the model."""
LOGITS = 3 * FLOAT32
"""Per position and word of the vocabulary as the loss's backward pass begins: log-probabilities, their gradient and the
logits' gradient, all in float32. The forward pass has no more: logits, logits in float32, log-probabilities."""


@dataclass(frozen=True)
class FitMemory:
    """Bytes on the device at a fit's peak."""

    weights: int
    gradients: int
    moments: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.moments + self.activations + self.logits


def memory_of(student: StudentConfig, sft: SFTConfig, precision: str) -> FitMemory | None:
    """The peak of a fit under trainer.precision `precision`.

    None where the shape is not known, where `precision` computes in another type than the weights have, or where
    an adapter's target is no linear layer of a block by its bare name.
    """
    shape = student.shape
    if not _is_known(shape) or not (precision == "32-true" or precision in BYTES):
        return None
    width = BYTES.get(precision, BYTES[student.precision.value])
    positions = sft.micro_batch_rows * student.max_length
    logits = LOGITS * positions * shape.vocab_size
    weights = width * count_parameters(shape)
    if sft.method is Method.full:
        kept = positions * full_activations(shape, width)
        return FitMemory(weights, weights, 2 * weights, kept, logits)
    if not set(sft.lora.targets) <= set(_linears(shape)):
        return None
    adapter = adapter_width(width, precision)
    trained = adapter * count_adapter(shape, sft.lora)
    kept = positions * lora_activations(shape, sft.lora, width, adapter)
    return FitMemory(weights + trained, trained, 2 * trained, kept, logits)


def memory_in_words(student: StudentConfig, sft: SFTConfig, precision: str) -> str:
    """One line: the peak, its parts, and what to change where a common card has less."""
    memory = memory_of(student, sft, precision)
    if memory is None:
        return "memory of a fit: not known; see student.shape, trainer.precision and sft.lora.targets"
    parts = {"weights": memory.weights, "gradients": memory.gradients, "AdamW": memory.moments}
    parts |= {"activations": memory.activations, "logits": memory.logits}
    told = ", ".join(f"{name} {size / GB:.1f}" for name, size in parts.items())
    line = f"memory of a fit: {memory.total / GB:.1f} GB on one device ({told}), computed, not measured"
    return line if memory.total <= CARD_GB * GB else f"{line}; {_advice(memory, sft)}"


def parameters_of(student: StudentConfig) -> float | None:
    """How many parameters the student has, as its configuration says or as its shape tells; None for not known."""
    if student.parameters is not None or not _is_known(student.shape):
        return student.parameters
    return count_parameters(student.shape)


def count_parameters(shape: ShapeConfig) -> int:
    """Weights of a model; tied embeddings count once."""
    hidden = shape.hidden_size
    biases = hidden + 2 * _key_value_size(shape) if shape.qkv_bias else 0
    block = sum(wide * high for wide, high in _linears(shape).values()) + biases + 2 * hidden
    tables = 1 if shape.tie_word_embeddings else 2
    return tables * shape.vocab_size * hidden + shape.num_hidden_layers * block + hidden


def count_adapter(shape: ShapeConfig, lora: LoraConfig) -> int:
    """Weights of a low-rank adapter, whose targets are linear layers of a block."""
    sizes = _linears(shape)
    return shape.num_hidden_layers * lora.rank * sum(sum(sizes[target]) for target in lora.targets)


def adapter_width(width: int, precision: str) -> int:
    """Bytes of an adapter's number: peft makes half precision float32, and Lightning converts it back if told so."""
    return width if precision in BYTES else max(width, FLOAT32)


def full_activations(shape: ShapeConfig, width: int) -> int:
    """Bytes per position that the backward pass of full fine-tuning needs, up to the logits.

    A norm keeps its input in float32, its normalised value and its output, which the linear layers after it share.
    Attention keeps queries, keys, values, its output, and a float32 per head. The MLP keeps the gate, the gate under
    SiLU, the other branch, and their product.
    """
    norm = (FLOAT32 + 2 * width) * shape.hidden_size
    block = 2 * norm + _attention(shape, width) + 4 * width * shape.intermediate_size
    return shape.num_hidden_layers * block + norm


def lora_activations(shape: ShapeConfig, lora: LoraConfig, width: int, adapter: int) -> int:
    """Bytes per position that the backward pass of an adapter needs, up to the logits; `adapter`: of its numbers.

    Frozen layers keep what their inputs' gradients need: no input of a linear layer, and of a norm the float32 only.
    Each target keeps its own input in the adapter's type, its low-rank value, and a byte of dropout's mask.
    """
    norm = FLOAT32 * shape.hidden_size
    block = 2 * norm + _attention(shape, width) + 3 * width * shape.intermediate_size
    mask = 1 if lora.dropout else 0
    inputs = sum(_linears(shape)[target][0] for target in lora.targets)
    added = (adapter + mask) * inputs + adapter * lora.rank * len(lora.targets)
    return shape.num_hidden_layers * (block + added) + norm


def _attention(shape: ShapeConfig, width: int) -> int:
    return width * 2 * (shape.hidden_size + _key_value_size(shape)) + FLOAT32 * shape.num_attention_heads


def _linears(shape: ShapeConfig) -> dict[str, tuple[int, int]]:
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


def _key_value_size(shape: ShapeConfig) -> int:
    return shape.hidden_size // shape.num_attention_heads * shape.num_key_value_heads


def _is_known(shape: ShapeConfig) -> bool:
    attention = (shape.num_attention_heads, shape.num_key_value_heads)
    return all((shape.hidden_size, shape.num_hidden_layers, *attention, shape.intermediate_size, shape.vocab_size))


def _advice(memory: FitMemory, sft: SFTConfig) -> str:
    """What to change, from what makes the least difference to the results."""
    rows = sft.micro_batch_rows
    fixed = memory.weights + memory.gradients + memory.moments
    fitting = [n for n in range(1, rows) if rows % n == 0 and fixed + (memory.total - fixed) * n / rows < CARD_GB * GB]
    if fitting:
        return f"on a card of {CARD_GB} GB take sft.micro_batch_rows={fitting[-1]}"
    return f"no micro-batch fits a card of {CARD_GB} GB" + ("" if sft.method is Method.lora else "; try sft=lora")
