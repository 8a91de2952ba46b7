"""A damaged checkpoint is put aside, and the fit resumes from the one before it or starts again."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tapir_exp.student.training.callbacks import newest_checkpoint


def save(directory: Path, *steps: int) -> list[Path]:
    paths = [directory / f"step-{step:09}.ckpt" for step in steps]
    for path in paths:
        torch.save({"weights": torch.arange(1000.0)}, path)
    return paths


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "flipped byte": flip_byte,
    "text": lambda path: path.write_text("not a checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_newest_checkpoint_skips_a_damaged_one(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    first, second = save(tmp_path, 9, 10)
    assert newest_checkpoint(tmp_path) == second
    damage(second)
    assert newest_checkpoint(tmp_path) == first
    assert (tmp_path / f"{second.name}.damaged").is_file()
    damage(first)
    assert newest_checkpoint(tmp_path) is None


def test_newest_checkpoint_accepts_a_sharded_one(tmp_path: Path) -> None:
    sharded = tmp_path / "step-000000020.ckpt"
    sharded.mkdir()
    save(tmp_path, 10)
    assert newest_checkpoint(tmp_path) == sharded
