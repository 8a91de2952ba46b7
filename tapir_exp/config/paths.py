"""Paths of the data files of the package."""

from pathlib import Path


def data_dir(name: str) -> Path:
    """Return the directory `conf` or `sweeps`: inside an installed package, next to it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / name
    return installed if installed.is_dir() else package.parent / name
