"""Estimate the disk space of students and of the checkpoint of a fit. Every assumption is a constant here, and ours."""

from pathlib import Path

from tapir_exp.config import Config, Method, Precision
from tapir_exp.student.training.memory import num_parameters

CHECKPOINT_BYTES = 12
"""Bytes per parameter of a checkpoint within a full fit: weights and Adam's state, in float32."""
ADAPTER_SHARE = 0.05
"""Size of an adapter with its checkpoint, relative to the weights of the student; an upper bound."""


def student_bytes(config: Config) -> float | None:
    """Return the size of one student as it is stored, in bytes; None if the size of the base model is not known."""
    parameters = _parameters(config)
    if parameters is None:
        return None
    weights = parameters * (2 if config.student.precision is Precision.bfloat16 else 4)
    return weights if config.sft.method is Method.full else ADAPTER_SHARE * weights


def checkpoint_bytes(config: Config) -> float:
    """Return the size of the checkpoint that exists during a fit, in bytes; that of an adapter is in its size."""
    parameters = _parameters(config)
    return 0.0 if parameters is None or config.sft.method is not Method.full else parameters * CHECKPOINT_BYTES


def _parameters(config: Config) -> float | None:
    parameters = num_parameters(config.student)
    if parameters is None and Path(config.student.model).is_dir():
        files = list(Path(config.student.model).glob("*.safetensors"))
        parameters = sum(path.stat().st_size for path in files) / 2 if files else None
    return parameters
