"""Settings of Lightning's Trainer, and of fits on several devices."""

from dataclasses import dataclass, field
from enum import Enum


class StrategyName(Enum):
    """Strategy of several devices, see `student/training/strategies.py`; `auto` is ddp on several devices."""

    auto = "auto"
    ddp = "ddp"
    fsdp = "fsdp"
    deepspeed = "deepspeed"


class Launcher(Enum):
    """Program that starts one process per device."""

    torchrun = "torchrun"
    srun = "srun"


@dataclass
class TrainerConfig:
    """Arguments of Lightning's Trainer, and the processes of a fit."""

    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu, ..."""
    devices: int = 1
    """Devices per node. With more than one device in all, `tapir` writes the fit as a job file, and `launcher` starts
    processes. They read this file and nothing of the command line."""
    num_nodes: int = 1
    """Number of nodes."""
    launcher: Launcher = Launcher.torchrun
    """torchrun: on this machine, and through `remote_shell` on other hosts. srun: within the allocation of SLURM."""
    hosts: list[str] = field(default_factory=list)
    """Host names of the nodes for torchrun, this machine first. All share its directories and its Python."""
    remote_shell: str = "ssh"
    """Command that runs another on a host; host and command line are appended."""
    port: int = 29400
    """Port of the first host for the rendezvous of torchrun on several nodes."""
    precision: str = "32-true"
    """Lightning's precision: 32-true, bf16-mixed, bf16-true, ..."""
    strategy: StrategyName = StrategyName.auto
    """Strategy of several devices."""
    deterministic: bool = True
    """Whether the same fit writes the same bytes on the same machine; on GPUs this costs speed."""
    activation_checkpointing: bool = False
    """Whether activations are recomputed in the backward pass: a third more work for far less memory."""
    liger_kernels: bool = False
    """Whether norms, rotations and MLPs use the Triton kernels of liger-kernel on a GPU (extra `gpu`)."""
    peak_tflops: float | None = None
    """Peak of one device in TFLOP/s, for MFU; null uses the data sheet of known cards."""
