"""Settings of supervised fine-tuning."""

from dataclasses import dataclass, field
from enum import Enum


class Method(Enum):
    """Trained weights: all of them, a low-rank adapter, or an adapter on a base in 4 bits."""

    full = "full"
    lora = "lora"
    qlora = "qlora"


@dataclass
class BudgetConfig:
    """Length of a fit; exactly one of the two is set."""

    epochs: float | None = None
    """Passes over the rows."""
    max_tokens: int | None = None
    """Training tokens, prompt and response, without padding."""


@dataclass
class LoraConfig:
    """Low-rank adapters of `sft.method` lora and qlora. A student that has an adapter continues it."""

    rank: int = 16
    """Rank of the adapter matrices."""
    alpha: int = 32
    """Scale: the adapter's output is multiplied by alpha / rank."""
    dropout: float = 0.05
    """Dropout before the adapter, 0 to 1."""
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])
    """Names of the linear layers that get an adapter."""


@dataclass
class SFTConfig:
    """Supervised fine-tuning. The defaults are those of neighbouring recipes (D)."""

    method: Method = Method.full
    """Which weights are trained."""
    seed_stage: BudgetConfig = field(default_factory=BudgetConfig)
    """Length of the fit on the seeds, which makes S_0; with 0 the base model is S_0."""
    round_stage: BudgetConfig = field(default_factory=BudgetConfig)
    """Length of the fit of one round."""
    learning_rate: float = 2e-5
    """Peak learning rate."""
    warmup_ratio: float = 0.03
    """Share of the steps with a rising learning rate; then it decays to 0 by a cosine."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    global_batch_size: int = 128
    """Rows per optimiser step, over all micro-batches and devices."""
    max_tokens_per_micro_batch: int = 4096
    """Largest number of tokens per forward pass, prompt and response; a longer row is one micro-batch."""
    max_grad_norm: float = 1.0
    """Gradient norm above which gradients are clipped."""
    max_drop_rate: float = 0.05
    """Share of rows without a response token within student.max_length above which the fit is rejected, 0 to 1."""
    save_steps: int = 100
    """Optimiser steps between checkpoints; an interrupted fit resumes from the last one."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Low-rank adapters."""
