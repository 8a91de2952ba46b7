"""The processor that the fits of a run will use, found without torch."""

import os
from collections.abc import Mapping
from pathlib import Path

from tapir_exp.config import TrainerConfig

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


def describe_cpu_hours(hours: Mapping[str, float]) -> str:
    """Return one line about the hours of fits and of the student's responses on the CPU."""
    about = f"about {hours['fit']:.2g} h of fits and {hours['student']:.2g} h of the student's responses"
    return f"without a GPU: {about} on {num_cores()} cores, computed, not measured"
