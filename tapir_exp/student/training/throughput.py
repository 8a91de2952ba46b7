"""Throughput, model FLOPs utilisation and peak memory of a fit."""

import resource
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tapir_exp.core.step_timing import StepTiming
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
"""Peak dense half-precision TFLOP/s by card, from the vendor's data sheets. The first key that occurs in the name of a
card applies, so longer names come first."""


@dataclass(frozen=True)
class ModelFlops:
    """Weights of a model by what training multiplies them with, from which its FLOPs follow.

    Attributes:
        frozen: Frozen weights of the decoder's linear layers.
        trained: Trained weights of the decoder's linear layers.
        head: Weights of the output layer.
        head_trained: Whether the output layer is trained.
        attention: Attention width (heads times head dimension), summed over layers.
    """

    frozen: int
    trained: int
    head: int
    head_trained: bool
    attention: int

    def of_step(self, lengths: Sequence[int], supervised: int) -> float:
        """Return the floating-point operations that a training step needs.

        Each weight costs two operations per token in the forward pass and two for the gradient of its layer's input. It
        costs two more for its own gradient if it is trained. Logits count for supervised tokens only, and attention is
        causal. Recomputation, as with activation checkpointing, does not count.

        Args:
            lengths: Tokens of each row.
            supervised: Supervised tokens of all rows.
        """
        linear = (4 * self.frozen + 6 * self.trained) * sum(lengths)
        head = (6 if self.head_trained else 4) * self.head * supervised
        # Two products (scores, weighted values) over length^2 / 2 causal pairs, two operations each, forward and twice
        # backward.
        attention = 6 * self.attention * sum(length * length for length in lengths)
        return float(linear + head + attention)


def count_model_flops(model: Any) -> ModelFlops:
    """Count the weights of a causal language model, which may have a PEFT adapter."""
    base = base_model_of(model)
    head = base.get_output_embeddings()
    linears = [m for m in base.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    sizes = [(m.in_features * m.out_features, m.weight.requires_grad) for m in linears]
    config = base.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return ModelFlops(
        frozen=sum(size for size, trained in sizes if not trained),
        trained=sum(size for size, trained in sizes if trained),
        head=head.in_features * head.out_features,
        head_trained=head.weight.requires_grad,
        attention=config.num_hidden_layers * config.num_attention_heads * head_dim,
    )


class ThroughputMeter:
    """Records the timing of each optimiser step."""

    def __init__(self, flops: ModelFlops, device: torch.device, num_ranks: int, peak_tflops: float | None) -> None:
        """Create a meter without timings.

        Args:
            flops: FLOPs of the model.
            device: Device of this rank.
            num_ranks: Number of devices that share a step.
            peak_tflops: Peak TFLOP/s of one device. None looks it up by the name of the card; there is no MFU for an
                unknown card.
        """
        self._flops, self._device = flops, device
        peak = peak_tflops or card_peak_tflops(device)
        self._peak_flops = None if peak is None else peak * 1e12 * num_ranks
        self.timings: list[StepTiming] = []

    def record(self, step: int, batch: StepBatch, seconds: float) -> None:
        """Add the timing of a step that took `seconds` of wall time."""
        flops = self._flops.of_step(batch.lengths, batch.supervised)
        self.timings.append(
            StepTiming(
                step=step,
                seconds=seconds,
                tokens=batch.tokens,
                supervised=batch.supervised,
                mfu=None if self._peak_flops is None else flops / seconds / self._peak_flops,
                memory_mb=peak_memory_bytes(self._device) / 2**20,
            )
        )


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak memory of tensors on a GPU, or the peak resident memory of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def card_peak_tflops(device: torch.device) -> float | None:
    """Return the peak of a known GPU in dense half precision, in TFLOP/s; None for other devices."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for card, peak in PEAK_TFLOPS.items() if card in name), None)
