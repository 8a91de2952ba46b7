"""Settings of fine-tuning."""

from dataclasses import dataclass, field
from enum import Enum


class Method(Enum):
    """What of the student is trained: all of it, a low-rank adapter, or one over a base in 4 bits."""

    full = "full"
    lora = "lora"
    qlora = "qlora"


class StrategyName(Enum):
    """How several devices share a fit: see `student/ranks.py`. `auto` is ddp where there are several."""

    auto = "auto"
    ddp = "ddp"
    fsdp = "fsdp"
    deepspeed = "deepspeed"


class Launcher(Enum):
    """What starts the processes of a fit on several devices, one a device."""

    torchrun = "torchrun"
    srun = "srun"


@dataclass
class BudgetConfig:
    """How long a fit lasts: exactly one of the two is set."""

    epochs: float | None = None
    """Passes over the rows."""
    max_tokens: int | None = None
    """Real (not padding) tokens, prompt and response."""


@dataclass
class LoraConfig:
    """Low-rank adapters, used where sft.method is lora or qlora; a student that has one already goes on from it."""

    rank: int = 16
    alpha: int = 32
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = 0.05
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])
    """Names of the linear layers that get an adapter."""


@dataclass
class SFTConfig:
    """Supervised fine-tuning; defaults are the neighbouring recipes' (D)."""

    method: Method = Method.full
    seed_stage: BudgetConfig = field(default_factory=BudgetConfig)
    """Budget of S_0's fit on the seeds; 0 takes the base model as S_0."""
    round_stage: BudgetConfig = field(default_factory=BudgetConfig)
    """Budget of one round's fit."""
    learning_rate: float = 2e-5
    warmup_ratio: float = 0.03
    """Share of the steps in which the learning rate rises; then it falls by a cosine to 0."""
    weight_decay: float = 0.0
    global_batch_size: int = 128
    """Rows per optimiser step, over all micro-batches."""
    max_tokens_per_micro_batch: int = 4096
    """Tokens per forward pass at most, prompt and response, but for a longer row, which goes alone."""
    max_grad_norm: float = 1.0
    """Largest gradient norm."""
    max_drop_rate: float = 0.05
    """Share of rows without a response token within student.max_length above which a fit is refused."""
    save_steps: int = 100
    """Optimiser steps between checkpoints, from which a killed fit resumes."""
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass
class TrainerConfig:
    """What is handed to Lightning's Trainer."""

    accelerator: str = "auto"
    devices: int = 1
    """Devices of a fit on each node. More than one in all: `tapir` writes the fit down as a job, and `launcher` starts
    its processes, which read the job and nothing of the command line."""
    num_nodes: int = 1
    launcher: Launcher = Launcher.torchrun
    """torchrun: on this machine, and by `remote_shell` on other hosts. srun: in the allocation of a SLURM job."""
    hosts: list[str] = field(default_factory=list)
    """torchrun on several nodes: their names, this machine first. They share its directories and its Python."""
    remote_shell: str = "ssh"
    """Command that carries out another on a host: it is followed by the host and a line of shell."""
    port: int = 29400
    """torchrun on several nodes: the port of the first host at which the others find it."""
    precision: str = "32-true"
    strategy: StrategyName = StrategyName.auto
    deterministic: bool = True
    """Whether the same fit gives the same bytes on the same machine; on a GPU it costs speed."""
    activation_checkpointing: bool = False
    """Whether activations are computed again in the backward pass: a third more work for far less memory."""
    liger_kernels: bool = False
    """Whether a GPU computes norms, rotations and MLPs by liger-kernel's Triton kernels; it takes tapir_exp[gpu]."""
    peak_tflops: float | None = None
    """Matrix TFLOP/s of one device, of which MFU is a share; null takes the data sheet's for cards that are known."""
