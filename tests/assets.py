"""Real data beside the checkout, which never enters the repository."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


def asset(name: str) -> Path:
    """The path of a shared file; the test is skipped where the folder is absent."""
    for place in (REPOSITORY.parent, REPOSITORY.parent.parent):
        path = place / "shared" / "assets" / name
        if path.exists():
            return path
    pytest.skip(f"shared/assets/{name} is not beside this checkout")
