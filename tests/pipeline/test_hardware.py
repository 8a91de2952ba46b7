"""Hours of fits on the CPU are known without torch."""

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


def test_hours_fall_with_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "num_cores", lambda: 2)
    two = hardware.cpu_hours(0.1)
    monkeypatch.setattr(hardware, "num_cores", lambda: 8)
    assert hardware.cpu_hours(0.1) == pytest.approx(two / 4)
    assert two == pytest.approx(0.1 * 312e12 * 0.4 / 80e9)
    assert "2 h of fits and 0.1 h of the student's responses on 8 cores" in hardware.describe_cpu_hours(
        {"fit": 2.0, "student": 0.1}
    )
    hours = hardware.cpu_hours_of({"fit": 0.1, "student": 0.1})
    assert hours["fit"] == pytest.approx(two / 4)
    assert hours["student"] == pytest.approx(0.1 * 312e12 * 0.05 / 64e9)
