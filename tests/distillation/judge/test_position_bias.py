"""A judge that adds one point to the response shown first: both orders select the hard set of an unbiased judge.

The judge sees the worth of a response with noise. Two hard sets count as the same if they differ no more than those of
two unbiased judges with different noise. Run this file to print the figures of NOTES.md.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from statistics import fmean

import pytest
from fakes import ScriptedChat, prompt_of, tagged

from tapir_exp.config import CurriculumConfig, JudgeConfig, LLMConfig
from tapir_exp.distillation.curriculum.difficulty import choose_hard, scored_gaps
from tapir_exp.distillation.judge.requests import ResponsePair
from tapir_exp.distillation.judge.score import score_pairs
from tapir_exp.llm.chat import ChatRequest

ROWS, NOISE, BIAS, DELTA = 1500, 0.5, 1.0, 2.0
UNBIASED, OTHERS = 0, (1, 2, 3, 4)
"""Seeds of the noise: of the unbiased reference judge, and of the judges that are compared with it."""


@cache
def pairs() -> tuple[ResponsePair, ...]:
    rng = Random(0)
    worths = [(rng.uniform(4.5, 8), rng.uniform(2.5, 8)) for _ in range(ROWS)]
    return tuple(
        ResponsePair(str(n), f"task {n}", f"worth {t:.3f}", f"worth {s:.3f}") for n, (t, s) in enumerate(worths)
    )


def judging(bias: float, seed: int) -> Callable[[ChatRequest], str]:
    """Return a judge with this bias; its noise is a function of seed and request."""

    def judge(request: ChatRequest) -> str:
        prompt, scores = prompt_of(request), []
        for position, extra in ((1, bias), (2, 0.0)):
            match = re.search(r"worth (\S+)", tagged(prompt, f"assistant_{position}")[0])
            assert match
            noise = Random(f"{seed} {position} {prompt}").gauss(0, NOISE)
            scores.append(min(10.0, max(1.0, float(match[1]) + extra + noise)))
        return f"{scores[0]:.2f} {scores[1]:.2f}"

    return judge


@cache
def hard_set(swap_positions: bool, bias: float, seed: int) -> frozenset[str]:
    config = JudgeConfig(llm=LLMConfig(model="m", concurrency=1), swap_positions=swap_positions)
    verdicts = score_pairs(pairs(), ScriptedChat(judging(bias, seed)), config, "judging")
    return choose_hard(scored_gaps(verdicts), CurriculumConfig(delta=DELTA, rows_per_round=1), 0)


def disagreement(swap_positions: bool, bias: float) -> list[float]:
    """Return the share of rows that such a judge and the unbiased reference put into different subsets, by seed."""
    reference = hard_set(True, 0.0, UNBIASED)
    return [len(reference ^ hard_set(swap_positions, bias, seed)) / ROWS for seed in OTHERS]


def excess(swap_positions: bool, bias: float) -> float:
    """Return the relative excess of the hard set over that of the unbiased judge, averaged over seeds."""
    reference = len(hard_set(True, 0.0, UNBIASED))
    return fmean(len(hard_set(swap_positions, bias, seed)) / reference - 1 for seed in OTHERS)


def format_figures(name: str, swap_positions: bool, bias: float) -> str:
    shares = disagreement(swap_positions, bias)
    return f"{name}: {excess(swap_positions, bias):+.1%} rows hard, {fmean(shares):.1%} of all in the other subset"


@pytest.mark.slow
def test_both_orders_select_the_unbiased_hard_set() -> None:
    noise, biased = disagreement(True, 0.0), disagreement(True, BIAS)
    assert fmean(biased) < 1.15 * fmean(noise)
    assert abs(excess(True, BIAS)) < 0.03


@pytest.mark.slow
def test_one_order_selects_another_hard_set() -> None:
    noise, biased = disagreement(True, 0.0), disagreement(False, BIAS)
    assert min(biased) > 1.8 * max(noise)
    assert excess(False, BIAS) > 0.3


@pytest.mark.slow
def test_one_order_without_bias_selects_the_same_hard_set() -> None:
    fair, biased = disagreement(False, 0.0), disagreement(False, BIAS)
    assert min(biased) > 1.5 * max(fair)
    assert abs(excess(False, 0.0)) < 0.05


def figures() -> Sequence[str]:
    """Return the figures of NOTES.md."""
    return [
        format_figures("both orders, no bias, other noise", True, 0.0),
        format_figures("both orders, bias of one point", True, BIAS),
        format_figures("one order, no bias", False, 0.0),
        format_figures("one order, bias of one point", False, BIAS),
    ]


if __name__ == "__main__":
    print("\n".join(figures()))
