"""The architecture of a student without a preset is read from its directory."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tapir_exp.config import ArchitectureConfig, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.student.architecture import read_architecture, with_architecture
from tapir_exp.student.training.memory import describe_memory, num_parameters

QWEN = {
    "model_type": "qwen2",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 2816,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}


def saved(directory: Path, **changes: object) -> Path:
    settings = {**QWEN, **changes}
    (directory / "config.json").write_text(json.dumps({name: v for name, v in settings.items() if v is not None}))
    return directory


def test_directory_tells_parameters_and_memory(tmp_path: Path) -> None:
    student = StudentConfig(model=str(saved(tmp_path)))
    assert num_parameters(student) == 463_987_712  # Qwen1.5-0.5B
    assert "GB on one device" in describe_memory(student, SFTConfig(), TrainerConfig())


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "gemma3"},
        {"hidden_size": None},
        {"hidden_size": "wide"},
        {"vocab_size": -1},
        {"vocab_size": True},
    ],
)
def test_unknown_architecture_stays_unknown(tmp_path: Path, changes: dict[str, object]) -> None:
    assert read_architecture(saved(tmp_path, **changes)) is None


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_damaged_file_tells_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert read_architecture(tmp_path) is None


def test_missing_key_value_heads_are_those_of_attention(tmp_path: Path) -> None:
    found = read_architecture(saved(tmp_path, model_type="llama", num_key_value_heads=None))
    assert found is not None
    assert (found.num_key_value_heads, found.qkv_bias) == (16, False)


def test_configured_architecture_is_kept(tmp_path: Path) -> None:
    student = StudentConfig(model=str(saved(tmp_path)), architecture=ArchitectureConfig(hidden_size=8))
    assert with_architecture(student) is student
    assert with_architecture(replace(student, model="OWNER/NAME", architecture=ArchitectureConfig())).architecture == (
        ArchitectureConfig()
    )
