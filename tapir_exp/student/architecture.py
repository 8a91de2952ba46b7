"""Read the architecture of a student's directory from its config.json, for plans of students without a preset."""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tapir_exp.config import ArchitectureConfig, StudentConfig

QKV_BIAS = {"llama": False, "mistral": False, "qwen2": True}
"""Model types whose blocks are those of `student.training.memory`; whether queries, keys and values have biases."""
MOST_BYTES = 1_000_000
"""Size above which a config.json is none."""


def with_architecture(student: StudentConfig) -> StudentConfig:
    """Return the student with the architecture of its directory, if none is configured and the directory has one."""
    if student.architecture.hidden_size:
        return student
    found = read_architecture(Path(student.model))
    return student if found is None else replace(student, architecture=found)


def read_architecture(directory: Path) -> ArchitectureConfig | None:
    """Return the architecture of a model directory; None if it has none that is known here."""
    path = directory / "config.json"
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(settings, Mapping) or settings.get("model_type") not in QKV_BIAS:
        return None
    sizes: dict[str, Any] = {
        name.name: settings.get(name.name) for name in fields(ArchitectureConfig) if name.type is int
    }
    # A model without grouped queries need not have this key.
    if sizes["num_key_value_heads"] is None:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    if not all(_is_size(size) for size in sizes.values()):
        return None
    kinds: dict[str, Any] = {
        "tie_word_embeddings": settings.get("tie_word_embeddings") is True,
        "qkv_bias": QKV_BIAS[settings["model_type"]] or settings.get("attention_bias") is True,
    }
    return ArchitectureConfig(**sizes, **kinds)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
