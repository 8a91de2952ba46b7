"""Choice of the threads of a local server, and when it is made again."""

import pytest

from tapir_exp.llm.serving.thread_choice import (
    LEAST_INTERVAL_S,
    LEAST_TOKENS,
    RETRY_INTERVAL_S,
    RateWatch,
    choose_threads,
    read_counters,
)

METRICS = """# HELP llamacpp:tokens_predicted_total Number of generation tokens processed
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 96
llamacpp:tokens_predicted_seconds_total 1.07584e+02
"""


@pytest.mark.parametrize(
    ("rates", "chosen", "measured"),
    [
        ({1: 60.0}, 1, [1]),
        ({1: 60.0, 2: 110.0}, 2, [1, 2]),
        ({1: 60.0, 2: 4.0}, 1, [1, 2]),
        ({1: 60.0, 2: 65.0}, 1, [1, 2]),
        ({1: 10.0, 2: 19.0, 3: 27.0}, 3, [1, 2, 3]),
        ({1: 10.0, 2: 19.0, 4: 36.0, 8: 30.0, 16: 60.0}, 4, [1, 2, 4, 8]),
    ],
)
def test_fastest_number_of_threads_is_chosen(rates: dict[int, float], chosen: int, measured: list[int]) -> None:
    asked: list[int] = []

    def rate_of(threads: int) -> float:
        asked.append(threads)
        return rates[threads]

    assert choose_threads(rate_of, max(rates)) == chosen
    assert asked == measured


def test_counters_are_read_from_metrics() -> None:
    assert read_counters(METRICS) == (96.0, 107.584)
    assert read_counters("") == (0.0, 0.0)


class Served:
    """Counters of a server at given rates."""

    def __init__(self) -> None:
        self.tokens, self.seconds = 0.0, 0.0

    def after(self, tokens: float, rate: float) -> tuple[float, float]:
        self.tokens, self.seconds = self.tokens + tokens, self.seconds + tokens / rate
        return self.tokens, self.seconds


def test_fall_of_the_rate_is_due_once_the_interval_is_over() -> None:
    watch, served = RateWatch(cores=2, threads=2, measured_at=0.0), Served()
    assert not watch.is_due(served.after(100, 50.0), 60.0)
    assert not watch.is_due(served.after(100, 20.0), LEAST_INTERVAL_S - 1)
    assert not watch.is_due(served.after(100, 30.0), LEAST_INTERVAL_S + 1)
    assert watch.is_due(served.after(100, 20.0), LEAST_INTERVAL_S + 2)


def test_few_tokens_are_not_judged() -> None:
    watch, served = RateWatch(cores=2, threads=2, measured_at=0.0), Served()
    assert not watch.is_due(served.after(100, 50.0), 1.0)
    assert not watch.is_due(served.after(LEAST_TOKENS - 1, 1.0), 1000.0)
    assert not watch.is_due((served.tokens, served.seconds), 2000.0)


def test_interval_doubles_if_a_measurement_changes_nothing() -> None:
    watch, served = RateWatch(cores=2, threads=2, measured_at=0.0), Served()
    watch.note_measured(2, 0.0)
    watch.is_due(served.after(100, 50.0), 1.0)
    assert not watch.is_due(served.after(100, 10.0), 2 * LEAST_INTERVAL_S - 1)
    assert watch.is_due(served.after(100, 10.0), 2 * LEAST_INTERVAL_S + 1)
    watch.note_measured(1, 0.0)
    served = Served()
    watch.is_due(served.after(100, 50.0), 1.0)
    assert watch.is_due(served.after(100, 10.0), LEAST_INTERVAL_S + 1)


def test_fewer_threads_than_cores_are_measured_again() -> None:
    watch, served = RateWatch(cores=2, threads=1, measured_at=0.0), Served()
    assert not watch.is_due(served.after(100, 50.0), RETRY_INTERVAL_S - 1)
    assert watch.is_due(served.after(100, 50.0), RETRY_INTERVAL_S + 1)
