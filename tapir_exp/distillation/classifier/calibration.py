"""Temperature scaling (Guo et al., ICML 2017): one number that makes a classifier's confidence match its accuracy."""

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.floating]
"""(rows, tasks); -inf for a type that cannot be predicted."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0


def softmax(logits: Logits, temperature: float) -> NDArray[np.float64]:
    """Return the softmax of logits / temperature over each row: (rows, tasks)."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares


def fit_temperature(logits: Logits, targets: NDArray[np.int64]) -> float:
    """Return the temperature with the highest likelihood on rows that the classifier was not trained on.

    Of n targets, a share of 1 / (n + 2) is spread over all types that have a logit, as Platt (1999) does for two types.
    Otherwise a few rows that are all right would make a classifier almost certain. Without rows the temperature is 1.

    Args:
        logits: (rows, tasks).
        targets: Index of each row's type: (rows,).
    """
    from scipy.optimize import minimize_scalar  # in the extra `local`, which training needs

    if not len(targets):
        return 1.0

    # Smoothed targets: 1 - 1 / (n + 2) for the right type, the rest over the types that have a logit.
    scored = np.isfinite(logits)
    smoothed = scored / (scored.sum(1, keepdims=True) * (len(targets) + 2))
    smoothed[np.arange(len(targets)), targets] += 1 - 1 / (len(targets) + 2)

    def nll(log_temperature: float) -> float:
        probabilities = softmax(logits, float(np.exp(log_temperature)))
        return float(-(smoothed * np.log(np.maximum(probabilities, 1e-12))).sum())

    # The loss is convex in 1 / temperature, so it has a single minimum, also over log(temperature).
    bounds = (np.log(MIN_TEMPERATURE), np.log(MAX_TEMPERATURE))
    result = minimize_scalar(nll, bounds=bounds, method="bounded")
    return round(float(np.exp(result.x)), 6)
