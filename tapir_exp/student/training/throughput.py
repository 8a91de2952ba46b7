"""How fast a fit goes, and what it takes of its device."""

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tapir_exp.core.records import StepTiming
from tapir_exp.student.loading import base_model_of
from tapir_exp.student.training.batching import StepBatch

PEAK_TFLOPS = {
    "H100 PCIe": 756,
    "H100": 989,
    "H200": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "RTX 4090": 165,
    "V100": 125,
}
"""Dense half-precision matrix TFLOP/s of a card whose name holds the key, from the vendor's data sheets; the first
that fits."""


@dataclass(frozen=True)
class ModelFlops:
    """The multiplications that a model's training needs, counted from its linear layers.

    frozen, trained: weights of the decoder's linear layers. head: weights of the output layer. head_trained: whether
    it is. attention: attention width (heads times their width), summed over layers.
    """

    frozen: int
    trained: int
    head: int
    head_trained: bool
    attention: int

    def flops(self, lengths: Sequence[int], supervised: int) -> float:
        """Of a step over rows of these lengths: two per weight and token forward, two for the gradient of a layer's
        input, two for a weight's.

        Logits are counted for the supervised tokens only, causal attention for what comes before; nothing that is
        computed twice, as with activation checkpointing, counts twice.
        """
        linear = (4 * self.frozen + 6 * self.trained) * sum(lengths)
        head = (6 if self.head_trained else 4) * self.head * supervised
        return float(linear + head + 6 * self.attention * sum(length * length for length in lengths))


def count_model_flops(model: Any) -> ModelFlops:
    """The work of a causal language model, which may have an adapter."""
    whole = base_model_of(model)
    head = whole.get_output_embeddings()
    linears = [m for m in whole.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    sizes = [(m.in_features * m.out_features, m.weight.requires_grad) for m in linears]
    config = whole.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelFlops(
        frozen=sum(size for size, trained in sizes if not trained),
        trained=sum(size for size, trained in sizes if trained),
        head=head.in_features * head.out_features,
        head_trained=head.weight.requires_grad,
        attention=config.num_hidden_layers * config.num_attention_heads * width,
    )


class ThroughputMeter:
    """Measures a fit step by step."""

    def __init__(self, work: ModelFlops, device: torch.device, ranks: int, peak_tflops: float | None) -> None:
        """peak_tflops: of one device; None looks it up, and an unknown one leaves MFU out."""
        self._work, self._device = work, device
        peak = peak_tflops or _peak_tflops(device)
        self._peak = None if peak is None else peak * 1e12 * ranks
        self.paces: list[StepTiming] = []

    def measure(self, step: int, batch: StepBatch, seconds: float) -> None:
        """Write down that this step took so many seconds of wall time."""
        flops = self._work.flops(batch.lengths, batch.supervised)
        self.paces.append(
            StepTiming(
                step=step,
                seconds=seconds,
                tokens=batch.tokens,
                supervised=batch.supervised,
                mfu=None if self._peak is None else flops / seconds / self._peak,
                memory_mb=peak_memory_bytes(self._device) / 2**20,
            )
        )


def peak_memory_bytes(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU so far; elsewhere the most that the process was resident with."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _peak_tflops(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for card, peak in PEAK_TFLOPS.items() if card in name), None)
