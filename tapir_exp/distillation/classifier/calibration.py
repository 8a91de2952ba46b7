"""Temperature scaling (Guo et al., ICML 2017): one number that makes a classifier as sure as it is right."""

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.floating]
COLDEST, HOTTEST = 0.01, 100.0


def softmax(logits: Logits, temperature: float) -> NDArray[np.float64]:
    """Softmax of logits / temperature, row by row."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    whole: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return whole


def fit_temperature(logits: Logits, targets: NDArray[np.int64]) -> float:
    """The temperature under which the targets are likeliest, on rows that the classifier was not trained on.

    Of n targets, 1 / (n + 2) is spread over all types that have a logit, as Platt (1999) has it for two: else a few
    rows, all of them right, would make a classifier as good as certain. The negative log-likelihood is convex in
    1 / temperature; without rows the temperature is 1.
    """
    from scipy.optimize import minimize_scalar  # of the extra `local`, which training needs

    if not len(targets):
        return 1.0

    scored = np.isfinite(logits)
    wanted = scored / (scored.sum(1, keepdims=True) * (len(targets) + 2))
    wanted[np.arange(len(targets)), targets] += 1 - 1 / (len(targets) + 2)

    def nll(log_temperature: float) -> float:
        sure = softmax(logits, float(np.exp(log_temperature)))
        return float(-(wanted * np.log(np.maximum(sure, 1e-12))).sum())

    found = minimize_scalar(nll, bounds=(np.log(COLDEST), np.log(HOTTEST)), method="bounded")
    return round(float(np.exp(found.x)), 6)
