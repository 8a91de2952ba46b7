"""Context manager for deterministic training: seeds the RNGs, and restores global torch state on exit."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

DETERMINISM: Any = torch.utils.deterministic  # torch ships no types for its settings


@contextmanager
def deterministic_scope(seed: int) -> Iterator[None]:
    """Seed torch and restore its RNG state, determinism flags and Lightning's log level on exit."""
    strict, lightning = torch.are_deterministic_algorithms_enabled(), logging.getLogger("pytorch_lightning")
    level = lightning.level
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
        lightning.setLevel(logging.ERROR)
        torch.manual_seed(seed)
        # In deterministic mode torch fills every new tensor with NaN to expose reads of uninitialised memory.
        # That takes an eighth of the time of a fit.
        filling, DETERMINISM.fill_uninitialized_memory = DETERMINISM.fill_uninitialized_memory, False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict)
            DETERMINISM.fill_uninitialized_memory = filling
            lightning.setLevel(level)
