"""Names of run and sweep directories. They hold no time, so that the same command finds its own work again."""

import re
from hashlib import sha256

from tapir_exp.config.compose import PRIMARY

MAX_LENGTH = 120
"""Directory names are cut to this many characters; a digest then keeps them unique."""


def run_name(name: str, overrides: str) -> str:
    """Return the directory name of a single run: the experiment, and a digest of the overrides if there are any."""
    return f"{name}-{_digest(overrides)}" if overrides else name


def sweep_name(config_name: str, name: str, overrides: str) -> str:
    """Return the directory name of a sweep: its file or its experiment, and a digest of the overrides.

    Args:
        config_name: The primary configuration: a sweep file, or the main one for a sweep typed on the command line.
        name: The name of the experiment.
        overrides: What was typed, as Hydra's `override_dirname`.
    """
    return run_name(name if config_name == PRIMARY else config_name, overrides)


def file_name(text: str) -> str:
    """Return `text` as one path component; a digest keeps it unique if characters were replaced or cut."""
    # Keep the characters of overrides that are safe in a path on every system.
    name = re.sub(r"[^\w.=,-]", "-", text)[:MAX_LENGTH]
    return name if name == text and text else f"{name}-{_digest(text)}"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]
