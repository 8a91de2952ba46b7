"""Real data beside the checkout, which never enters the repository."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUPPORT = Path(__file__).parent
HEAVY = ("torch", "litellm", "transformers", "wandb", "pytorch_lightning", "lightning", "peft", "datasets")
"""Libraries that no command loads before its work begins."""


def asset(name: str) -> Path:
    """The path of a shared file; the test is skipped where the folder is absent."""
    for place in (ROOT.parent, ROOT.parent.parent):
        path = place / "shared" / "assets" / name
        if path.exists():
            return path
    pytest.skip(f"shared/assets/{name} is not beside this checkout")
