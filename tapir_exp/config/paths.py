"""Where the files lie that come with the package but are no code."""

from pathlib import Path


def data_dir(name: str) -> Path:
    """The directory `conf` or `sweeps`: in the package when installed from a wheel, beside it in the checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / name
    return installed if installed.is_dir() else package.parent / name
