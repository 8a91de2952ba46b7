"""The processor that the fits of a run will use, for estimates of hours without torch."""

import os
from collections.abc import Mapping
from pathlib import Path

from tapir_exp.config import TrainerConfig
from tapir_exp.pipeline.stage_costs import GENERATION_UTILISATION, PEAK_FLOPS, UTILISATION

CPU_FLOPS = 40e9
"""Training FLOPs per second and core: 10 M parameters in float32, batches by length, on a core with AVX-512. Ours."""
CPU_GENERATION_FLOPS = 8e9
"""The same for generation in batches: 10 M parameters in float32, 430 tokens per second and core. Ours."""
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


def cpu_generation_hours(gpu_hours: float) -> float:
    """Return the hours that generation of so many hours on an A100 takes on all cores of this machine."""
    return gpu_hours * PEAK_FLOPS * GENERATION_UTILISATION / (CPU_GENERATION_FLOPS * num_cores())


def cpu_hours_of(gpu_hours: Mapping[str, float]) -> dict[str, float]:
    """Return the hours on all cores of this machine of the roles `fit` and `student`."""
    return {"fit": cpu_hours(gpu_hours["fit"]), "student": cpu_generation_hours(gpu_hours["student"])}


def describe_cpu_hours(hours: Mapping[str, float]) -> str:
    """Return one line about the hours of fits and of the student's responses on the CPU."""
    about = f"about {hours['fit']:.2g} h of fits and {hours['student']:.2g} h of the student's responses"
    return f"without a GPU: {about} on {num_cores()} cores, computed, not measured"
