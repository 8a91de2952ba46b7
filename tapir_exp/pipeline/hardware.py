"""The processor that the fits of a run will use, for estimates of hours without torch."""

import os
from pathlib import Path

from tapir_exp.config import TrainerConfig
from tapir_exp.pipeline.estimate import PEAK_FLOPS, UTILISATION

CPU_FLOPS = 40e9
"""Training FLOPs per second and core: 10 M parameters in float32, batches by length, on a core with AVX-512. Ours."""
GPU_FILES = ("/dev/nvidia0", "/dev/kfd")
"""Files of the first GPU of NVIDIA and of AMD."""


def uses_cpu(trainer: TrainerConfig) -> bool:
    """Return whether fits run on the CPU: it is chosen, or this machine has no GPU that is known here."""
    if trainer.accelerator == "auto":
        return not any(Path(name).exists() for name in GPU_FILES)
    return trainer.accelerator == "cpu"


def num_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_hours(gpu_hours: float) -> float:
    """Return the hours that a fit of so many hours on an A100 takes on all cores of this machine."""
    return gpu_hours * PEAK_FLOPS * UTILISATION / (CPU_FLOPS * num_cores())


def describe_cpu_hours(hours: float) -> str:
    """Return one line about the hours of fits on the CPU."""
    about = f"about {hours:.2g} h on {num_cores()} cores, computed, not measured"
    return f"fits without a GPU: {about}; responses of the student are not counted"
