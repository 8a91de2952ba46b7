"""Learning rates of the fits of a run."""

import math
from dataclasses import replace

import pytest

from tapir_exp.config import LRSchedule, SFTConfig
from tapir_exp.student.training.schedule import annealing_schedule, restart_schedule, round_schedule

STEPS = 100
SFT = SFTConfig(learning_rate=2.0, warmup_ratio=0.1, decay_ratio=0.2, peak_decay=0.2)


def rates(name: str, rounds: int = 3) -> list[list[float]]:
    """Return the learning rates of each round's fit of 100 steps."""
    sft = replace(SFT, lr_schedule=LRSchedule[name])
    fits = [round_schedule(sft, number, rounds) for number in range(1, rounds + 1)]
    return [[fit.rate(step, STEPS) for step in range(1, STEPS + 1)] for fit in fits]


def test_restart_schedule_rises_linearly_then_falls_to_zero() -> None:
    schedule = restart_schedule(SFT)
    single = [schedule.rate(step, STEPS) for step in range(1, STEPS + 1)]
    assert single[0] == pytest.approx(0.2)
    assert max(single) == single[9] == 2.0
    assert single[9:] == sorted(single[9:], reverse=True)
    assert 0 < single[-1] < 0.01
    assert single[55] == pytest.approx(1 + math.cos(math.pi * 0.5))
    assert restart_schedule(replace(SFT, warmup_ratio=0.03)).rate(1, 1) == 2.0
    assert restart_schedule(replace(SFT, warmup_ratio=0.0)).rate(1, 5) == 2.0
    assert rates("restart") == [single] * 3


def test_one_schedule_joins_the_rounds_to_a_single_fit() -> None:
    joined = [rate for fit in rates("one") for rate in fit]
    single = restart_schedule(SFT)
    assert joined == [single.rate(step, 3 * STEPS) for step in range(1, 3 * STEPS + 1)]
    assert joined[29] == max(joined) == 2.0


def test_wsd_schedule_warms_up_once_and_decays_at_the_end() -> None:
    first, second, third = rates("wsd")
    assert (first[0], set(first[9:]), set(second), set(third[:81])) == (pytest.approx(0.2), {2.0}, {2.0}, {2.0})
    assert third[80:] == pytest.approx([2.0 * (1 - step / 20) for step in range(20)])
    (single,) = rates("wsd", rounds=1)
    assert single == [*first[:80], *third[80:]]


def test_falling_schedule_lowers_the_peak_of_each_round() -> None:
    (restarted, *_) = rates("restart")
    assert rates("falling")[2] == pytest.approx([0.2**2 * rate for rate in restarted])


@pytest.mark.parametrize("name", list(LRSchedule.__members__))
@pytest.mark.parametrize("warmup_ratio", [0.0, 0.1, 0.5, 1.0])
def test_annealing_schedule_starts_at_the_rate_of_the_fits_end(name: str, warmup_ratio: float) -> None:
    sft = replace(SFT, lr_schedule=LRSchedule[name], warmup_ratio=warmup_ratio)
    many = 10_000
    for number in (1, 2, 3):
        schedule = round_schedule(sft, number, 3)
        annealing = annealing_schedule(schedule)
        assert annealing.rate(1, 10) == pytest.approx(schedule.rate(many, many), abs=2e-3)
        assert annealing.rate(10, 10) == pytest.approx(schedule.end_rate / 10)
    kept = name != "wsd" and warmup_ratio == 1
    assert (round_schedule(sft, 3, 3).end_rate > 0) is kept
