"""Paths of the repository, and of real data next to the checkout, which never enters the repository."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUPPORT = Path(__file__).parent
HEAVY = ("torch", "litellm", "transformers", "wandb", "pytorch_lightning", "lightning", "peft", "datasets")
"""Libraries that no command loads before its work begins."""


def asset(name: str) -> Path:
    """Return the path of a shared file; skip the test if the folder is absent."""
    for parent in (ROOT.parent, ROOT.parent.parent):
        path = parent / "shared" / "assets" / name
        if path.exists():
            return path
    pytest.skip(f"shared/assets/{name} is not next to this checkout")
