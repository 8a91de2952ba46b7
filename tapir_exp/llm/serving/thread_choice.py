"""The number of threads of a local server, chosen by measurement.

The threads of llama.cpp wait for each other several hundred times per token, in a loop that takes a core. With one
busy core, two threads are therefore several times slower than one; on an idle machine they are nearly twice as fast.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

WORTH = 1.15
"""Least ratio of the rates for which twice the threads are taken; fewer threads suffer less from other programs."""
FALL = 0.5
"""Ratio to the best rate from which the threads are measured again."""
LEAST_TOKENS = 16
"""Fewest tokens between two looks for a rate."""
LOOK_INTERVAL_S = 5.0
"""Seconds between two readings of the rate."""
LEAST_INTERVAL_S = 120.0
"""Seconds between two measurements; it doubles with each that changes nothing, as the rate fell for another reason."""
RETRY_INTERVAL_S = 600.0
"""Seconds after which fewer threads than cores are measured again, since another program may have ended."""
_COUNTER = re.compile(r"^llamacpp:(\w+) ([0-9.eE+-]+)$", re.MULTILINE)


def choose_threads(rate_of: Callable[[int], float], cores: int) -> int:
    """Return the number of threads with the highest rate.

    Args:
        rate_of: Measures the tokens per second with so many threads.
        cores: Cores that this process may use.
    """
    best, best_rate = 1, rate_of(1)
    for threads in _doubled(cores):
        rate = rate_of(threads)
        # More threads than these are slower still.
        if rate < WORTH * best_rate:
            break
        best, best_rate = threads, rate
    return best


def _doubled(cores: int) -> list[int]:
    """Return 2, 4, 8 and so on below the number of cores, and that number."""
    counts = [2**power for power in range(1, cores.bit_length()) if 2**power < cores]
    return [*counts, cores] if cores > 1 else []


def read_counters(metrics: str) -> tuple[float, float]:
    """Return the generated tokens, and the seconds that their requests took together, from llama.cpp's metrics."""
    counters = {name: float(value) for name, value in _COUNTER.findall(metrics)}
    return counters.get("tokens_predicted_total", 0.0), counters.get("tokens_predicted_seconds_total", 0.0)


@dataclass
class RateWatch:
    """Determines when the threads are measured again, from the counters of a server.

    Attributes:
        cores: Cores that this process may use.
        threads: Threads of the server.
        measured_at: When they were measured, in seconds of a monotonic clock.
        interval_s: Least seconds until they are measured again because the rate fell.
    """

    cores: int
    threads: int
    measured_at: float = field(default_factory=time.monotonic)
    interval_s: float = LEAST_INTERVAL_S
    _best: float = 0.0
    _seen: tuple[float, float] = (0.0, 0.0)

    def is_due(self, counters: tuple[float, float], now: float) -> bool:
        """Return whether the threads should be measured again.

        Args:
            counters: Tokens and seconds since the start of the server, as `read_counters` returns them.
            now: The present time.
        """
        tokens, seconds = (present - before for present, before in zip(counters, self._seen, strict=True))
        if tokens < LEAST_TOKENS or seconds <= 0:
            return False
        self._seen = counters
        rate = tokens / seconds
        self._best = max(self._best, rate)
        age = now - self.measured_at
        has_fallen = rate < FALL * self._best and age >= self.interval_s
        return has_fallen or (self.threads < self.cores and age >= max(RETRY_INTERVAL_S, self.interval_s))

    def note_measured(self, threads: int, now: float) -> None:
        """Start again with a new server, which has so many threads."""
        self.interval_s = 2 * self.interval_s if threads == self.threads else LEAST_INTERVAL_S
        self.threads, self.measured_at = threads, now
        self._best, self._seen = 0.0, (0.0, 0.0)
