"""Hours of a student's fits and generation, computed from its size: on one A100 and on one core of a CPU.

A fit computes at a share of the processor's peak. Generation does so on a CPU. On a GPU each step starts the kernels of
all layers, for many rows as for few. So its hours follow from the number of steps.
"""

from typing import NamedTuple

from tapir_exp.config import StudentConfig
from tapir_exp.student.architecture import with_architecture
from tapir_exp.student.training.memory import num_parameters

PEAK_FLOPS = 312e12
"""Peak of the GPU of the estimated hours: an A100 in bfloat16, by its data sheet."""
UTILISATION = 0.4
"""Share of the peak that training reaches."""
TRAINING_FLOPS = 6
"""Training FLOPs per parameter and token, forward and backward (Kaplan et al., 2020)."""
GENERATION_FLOPS = 2
"""FLOPs per parameter and generated token (Kaplan et al., 2020)."""
LAYER_SECONDS = 0.85e-3
"""Seconds of a layer in a step of generation: 0.77 to 0.85 ms for 24 and 32 layers (`benchmarks/generate/gpu.py`)."""
ROWS_SHARE = 0.46
"""Mean share of a batch whose rows are not finished: measured there, with responses of 16 to 256 tokens."""
LAYERS = 32
"""Layers of a student whose architecture is unknown: those of LLaMA2-7B."""
CORE_TRAINING_FLOPS = 40e9
"""Training FLOPs per second and core: 10 M parameters in float32, batches by length, on a core with AVX-512. Ours."""
CORE_GENERATION_FLOPS = 8e9
"""The same for generation in batches: 10 M parameters in float32, 430 tokens per second and core. Ours."""
HOUR = 3600


class StudentHours(NamedTuple):
    """Hours of a fit or of generation.

    Attributes:
        gpu: Hours on one A100.
        core: Hours on one core of a CPU.
    """

    gpu: float
    core: float


def fit_hours(student: StudentConfig, tokens: float) -> StudentHours | None:
    """Return the hours of a fit on so many tokens; None if the size of the student is unknown."""
    parameters = num_parameters(student)
    if parameters is None:
        return None
    flops = parameters * TRAINING_FLOPS * tokens
    return StudentHours(flops / (PEAK_FLOPS * UTILISATION) / HOUR, flops / CORE_TRAINING_FLOPS / HOUR)


def generation_hours(student: StudentConfig, tokens: float) -> StudentHours | None:
    """Return the hours of generating so many tokens with `engine=transformers`; None if the size is unknown."""
    parameters = num_parameters(student)
    if parameters is None:
        return None
    flops = parameters * GENERATION_FLOPS * tokens
    steps = tokens / (ROWS_SHARE * student.generation_batch_size)
    layers = with_architecture(student).architecture.num_hidden_layers or LAYERS
    seconds = max(steps * layers * LAYER_SECONDS, flops / (PEAK_FLOPS * UTILISATION))
    return StudentHours(seconds / HOUR, flops / CORE_GENERATION_FLOPS / HOUR)
