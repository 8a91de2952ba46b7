"""Texts for encoders: the order in which they are read, and the matrices that come back."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
"""One row a text."""


def length_sorted_batches(texts: Sequence[str], batch: int) -> list[list[int]]:
    """Places of the texts in batches of neighbours by length, so that little is padding."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    return [order[start : start + batch] for start in range(0, len(order), batch)]
