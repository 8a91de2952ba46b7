"""A judge that gives the answer shown first one point more: both orders select as an unbiased judge does, one does not.

The judge sees what an answer is worth, with noise. How far two unbiased judges with other noise disagree is the
measure of "the same selection"; the figures of this test are in NOTES.md.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from random import Random
from statistics import fmean

from fakes import ScriptedChat, said_to, tagged

from tapir_exp.config import CurriculumConfig, JudgeConfig, LLMConfig
from tapir_exp.distillation.curriculum.difficulty import choose_hard, scored_gaps
from tapir_exp.distillation.judge.requests import ResponsePair
from tapir_exp.distillation.judge.score import score_pairs
from tapir_exp.llm.chat import ChatRequest

ROWS, NOISE, BIAS, DELTA = 1500, 0.5, 1.0, 2.0
UNBIASED, OTHERS = 0, (1, 2, 3, 4)
"""Seeds of the noise: of the unbiased judge, and of those who are held against it."""


@cache
def matches() -> tuple[ResponsePair, ...]:
    rng = Random(0)
    worths = [(rng.uniform(4.5, 8), rng.uniform(2.5, 8)) for _ in range(ROWS)]
    return tuple(
        ResponsePair(str(n), f"task {n}", f"worth {t:.3f}", f"worth {s:.3f}") for n, (t, s) in enumerate(worths)
    )


def judging(bias: float, seed: int) -> Callable[[ChatRequest], str]:
    """A judge of this bias, whose noise is a function of seed and request."""

    def say(request: ChatRequest) -> str:
        prompt, scores = said_to(request), []
        for place, extra in ((1, bias), (2, 0.0)):
            found = re.search(r"worth (\S+)", tagged(prompt, f"assistant_{place}")[0])
            assert found
            noise = Random(f"{seed} {place} {prompt}").gauss(0, NOISE)
            scores.append(min(10.0, max(1.0, float(found[1]) + extra + noise)))
        return f"{scores[0]:.2f} {scores[1]:.2f}"

    return say


@cache
def hard_set(swap_positions: bool, bias: float, seed: int) -> frozenset[str]:
    config = JudgeConfig(llm=LLMConfig(model="m", concurrency=1), swap_positions=swap_positions)
    verdicts = score_pairs(matches(), ScriptedChat(judging(bias, seed)), config, "judging")
    return choose_hard(scored_gaps(verdicts), CurriculumConfig(delta=DELTA, rows_per_round=1), 0)


def disagreement(swap_positions: bool, bias: float) -> list[float]:
    """Share of all rows on which such a judge and the unbiased one, in both orders, place differently, by seed."""
    reference = hard_set(True, 0.0, UNBIASED)
    return [len(reference ^ hard_set(swap_positions, bias, seed)) / ROWS for seed in OTHERS]


def excess(swap_positions: bool, bias: float) -> float:
    """By how much more rows than the unbiased judge's its hard set holds, as a share of those."""
    reference = len(hard_set(True, 0.0, UNBIASED))
    return fmean(len(hard_set(swap_positions, bias, seed)) / reference - 1 for seed in OTHERS)


def told(name: str, swap_positions: bool, bias: float) -> str:
    shares = disagreement(swap_positions, bias)
    return f"{name}: {excess(swap_positions, bias):+.1%} rows hard, {fmean(shares):.1%} of all placed otherwise"


def test_both_orders_select_as_without_bias_up_to_the_noise() -> None:
    noise, biased = disagreement(True, 0.0), disagreement(True, BIAS)
    assert fmean(biased) < 1.15 * fmean(noise)
    assert abs(excess(True, BIAS)) < 0.03


def test_one_order_does_not() -> None:
    noise, biased = disagreement(True, 0.0), disagreement(False, BIAS)
    assert min(biased) > 1.8 * max(noise)
    assert excess(False, BIAS) > 0.3


def test_the_bias_and_not_the_fewer_ballots_makes_the_difference() -> None:
    fair, biased = disagreement(False, 0.0), disagreement(False, BIAS)
    assert min(biased) > 1.5 * max(fair)
    assert abs(excess(False, 0.0)) < 0.05


def figures() -> Sequence[str]:
    """What NOTES.md says, as it comes out."""
    return [
        told("both orders, no bias, other noise", True, 0.0),
        told("both orders, bias of one point", True, BIAS),
        told("one order, no bias", False, 0.0),
        told("one order, bias of one point", False, BIAS),
    ]


if __name__ == "__main__":
    print("\n".join(figures()))
