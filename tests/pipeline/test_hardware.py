"""The processor of fits is known without torch."""

from pathlib import Path

import pytest

from tapir_exp.config import TrainerConfig
from tapir_exp.pipeline import hardware


def test_accelerator_and_files_tell_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "GPU_FILES", (str(tmp_path / "nvidia0"),))
    assert hardware.uses_cpu(TrainerConfig(accelerator="auto"))
    assert hardware.uses_cpu(TrainerConfig(accelerator="cpu"))
    assert not hardware.uses_cpu(TrainerConfig(accelerator="gpu"))
    (tmp_path / "nvidia0").touch()
    assert not hardware.uses_cpu(TrainerConfig(accelerator="auto"))


def test_hours_on_the_cpu_name_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "num_cores", lambda: 8)
    text = hardware.describe_cpu_hours({"fit": 2.0, "student": 0.1})
    assert "2 h of fits and 0.1 h of the student's responses on 8 cores" in text
