"""Where fits are carried out: apart from the world, so that neither disturbs the other."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

DETERMINISM: Any = torch.utils.deterministic  # its settings have no types


@contextmanager
def deterministic_scope(seed: int) -> Iterator[None]:
    """Seeded random numbers and deterministic kernels inside, the caller's outside; Lightning keeps quiet."""
    strict, lightning = torch.are_deterministic_algorithms_enabled(), logging.getLogger("pytorch_lightning")
    level = lightning.level
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric")
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|peft")
        lightning.setLevel(logging.ERROR)
        torch.manual_seed(seed)
        # Deterministic kernels fill every new tensor with NaN, to show who reads it too early: an eighth of a fit.
        filling, DETERMINISM.fill_uninitialized_memory = DETERMINISM.fill_uninitialized_memory, False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(strict)
            DETERMINISM.fill_uninitialized_memory = filling
            lightning.setLevel(level)
