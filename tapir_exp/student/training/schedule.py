"""Learning rate of each step of a fit, for fits that follow each other in rounds, and the steps that are averaged.

The schedules over rounds (`sft.lr_schedule`) and their sources:

- restart: each round warms up and decays to 0 by a cosine, as in Lion (arXiv 2305.12870).
- one: a single warmup and cosine over all rounds, as in B-STaR (arXiv 2412.17256), whose scheduler goes on over its
  iterations.
- wsd: warmup, stable rate and decay: a constant rate until the end of the last round (MiniCPM, arXiv 2404.06395).
- falling: restarts with a lower peak in each round, as in SPIN (arXiv 2401.01335), which divides the rate by five.
"""

import math
from dataclasses import dataclass

from tapir_exp.config import BudgetConfig, LRSchedule, SFTConfig

MANY_STEPS = 1_000_000


@dataclass(frozen=True)
class FitSchedule:
    """Learning rate of one fit. It is part of the fit's recipe, so it holds nothing that leaves the rates unchanged.

    Attributes:
        peak: Learning rate after the warmup.
        warmup_ratio: Share of the span in which the rate rises linearly.
        linear_decay: Share of the span in which the rate falls linearly to 0, at its end; None for a cosine from the
            end of the warmup to the end of the span.
        number: Number of this fit in the span, counted from 1.
        fits: Fits of equal length in the span.
    """

    peak: float
    warmup_ratio: float
    linear_decay: float | None = None
    number: int = 1
    fits: int = 1

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step.

        Args:
            step: Optimiser step of this fit, counted from 1.
            steps: Steps of this fit.
        """
        done, total = (self.number - 1) * steps + step, self.fits * steps
        warmup = math.ceil(self.warmup_ratio * total)
        rising = done / warmup if done <= warmup else 1.0
        if self.linear_decay is not None:
            decay = math.ceil(self.linear_decay * total)
            return self.peak * min(rising, (total - done + 1) / decay if decay else 1.0)
        if done <= warmup:
            return self.peak * rising
        return self.peak * _cosine((done - 1 - warmup) / (total - warmup))

    def describe(self) -> str:
        """Return the schedule in words, for the model card."""
        if self.linear_decay is not None:
            end = f"a linear decay to 0 over the last {self.linear_decay:g}" if self.linear_decay else "no decay"
            return f"{self.warmup_ratio:g} of the steps warm-up, then constant, {end}"
        part = f"; fit {self.number} of {self.fits} under it" if self.fits > 1 else ""
        return f"{self.warmup_ratio:g} of the steps warm-up, then a cosine{part}"

    @property
    def end_rate(self) -> float:
        """Return the rate at which the fit ends, as the limit for many steps."""
        decays = self.warmup_ratio < 1 if self.linear_decay is None else self.linear_decay > 0
        return 0.0 if decays and self.number == self.fits else self.rate(MANY_STEPS, MANY_STEPS)


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class Averaging:
    """Which weights of a fit are averaged.

    With a curriculum, averaging takes the place of a strong decay of the learning rate (arXiv 2511.18903).

    Attributes:
        snapshots: Number of weights in the mean.
        ratio: Share of the steps, at the end of the fit, over which they are evenly spaced.
    """

    snapshots: int
    ratio: float

    def steps(self, total: int) -> frozenset[int]:
        """Return the steps after which the weights are added, the last one included.

        A fit with fewer steps in its last part than snapshots adds the weights of each of those steps once.
        """
        span = max(1, math.ceil(self.ratio * total))
        return frozenset(total - span * number // self.snapshots for number in range(self.snapshots))


def restart_schedule(sft: SFTConfig) -> FitSchedule:
    """Return the schedule of a fit that stands alone, such as that of S_0."""
    return FitSchedule(sft.learning_rate, sft.warmup_ratio)


def round_schedule(sft: SFTConfig, number: int, rounds: int) -> FitSchedule:
    """Return the schedule of the fit of a round.

    Args:
        sft: Peak rate, warmup and schedule over rounds.
        number: Number of the round, counted from 1.
        rounds: Rounds of the run.
    """
    match sft.lr_schedule:
        case LRSchedule.one:
            return FitSchedule(sft.learning_rate, sft.warmup_ratio, number=number, fits=rounds)
        case LRSchedule.wsd:
            warmup = sft.warmup_ratio if number == 1 else 0.0
            return FitSchedule(sft.learning_rate, warmup, sft.decay_ratio if number == rounds else 0.0)
        case LRSchedule.falling:
            return FitSchedule(sft.learning_rate * sft.peak_decay ** (number - 1), sft.warmup_ratio)
        case LRSchedule.restart:
            return restart_schedule(sft)


def annealing_schedule(schedule: FitSchedule) -> FitSchedule:
    """Return the schedule of a branch whose rate falls linearly to 0 from the rate at the end of a fit."""
    return FitSchedule(schedule.end_rate, 0.0, 1.0)


def annealing_budget(sft: SFTConfig) -> BudgetConfig:
    """Return the length of such a branch."""
    budget = sft.round_stage
    if budget.max_tokens is not None:
        return BudgetConfig(max_tokens=round(sft.anneal_ratio * budget.max_tokens))
    return BudgetConfig(epochs=sft.anneal_ratio * (budget.epochs or 0.0))
