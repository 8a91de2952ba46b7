"""Fixtures of a tiny student, built once for all tests of `student/`."""

from pathlib import Path

import pytest

from tapir_exp.config import LabStudentConfig, SFTConfig, StudentConfig, TrainerConfig
from tapir_exp.core.records import Subset
from tapir_exp.lab.base_student import build_base_student
from tapir_exp.student.chat_template import Chat, load_chat
from tapir_exp.student.training.encoding import TrainingRow

TINY = LabStudentConfig(vocab_size=300, hidden_size=32, intermediate_size=48, num_layers=2, num_heads=2)


@pytest.fixture(scope="session")
def rows() -> list[TrainingRow]:
    """Return rows of different lengths in both subsets."""
    words = ["red", "green", "blue", "black", "white"]
    return [
        TrainingRow(
            "Say " + " ".join(words[i % 5] for i in range(n)),
            " ".join(words[(i + n) % 5] for i in range(1 + n % 4)),
            Subset.HARD if n % 3 == 0 else Subset.REST,
        )
        for n in range(1, 19)
    ]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, rows: list[TrainingRow]) -> Path:
    """Return the directory of a student with random weights."""
    directory = tmp_path_factory.mktemp("base")
    build_base_student(directory, TINY, [f"{row.instruction} {row.response}" for row in rows])
    return directory


@pytest.fixture(scope="session")
def student() -> StudentConfig:
    return StudentConfig(model="lab", max_length=128, max_new_tokens=12, generation_batch_size=4)


@pytest.fixture(scope="session")
def chat(base: Path, student: StudentConfig) -> Chat:
    return load_chat(base, student)


@pytest.fixture
def sft() -> SFTConfig:
    return SFTConfig(learning_rate=1e-2, global_batch_size=6, max_tokens_per_micro_batch=40, save_steps=3)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty hub cache; the hub itself is offline."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture(scope="session")
def trainer() -> TrainerConfig:
    return TrainerConfig(accelerator="cpu")
