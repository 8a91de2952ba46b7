"""The matrices that encoders return."""

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
"""One row a text."""
