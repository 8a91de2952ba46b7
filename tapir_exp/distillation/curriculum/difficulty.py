"""Difficulty of a row for a student, by one of six scores, and the hard set that a score selects. Pure.

Every score grows with difficulty. MFD, the paper's score, has a threshold in judge points. That threshold means nothing
on the scales of the other scores, so they select a fixed fraction of the rows: those with the highest scores.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import exp
from statistics import fmean

from tapir_exp.config import CurriculumConfig, Difficulty
from tapir_exp.core.records import Verdict
from tapir_exp.core.seeding import derive_uniform

Scores = Mapping[str, float]
"""Difficulty by row id; a row that could not be scored is absent."""


def scored_gaps(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """Return the MFD by row id, in points from -9 to 9; rows with an unscored verdict are absent.

    MFD(x) = score(teacher) - score(student). Source: TAPIR (arXiv 2405.13448). The paper prints it as student minus
    teacher, but states that a gap above the threshold means hard.
    """
    return {verdict.id: verdict.gap for verdict in verdicts if verdict.gap is not None}


def instruction_following_difficulty(instructed: float, alone: float) -> float:
    """Return IFD(x, y) = L(y | x) / L(y): how little the instruction x helps the student to write the response y.

    Source: Cherry / Reflection-Tuning, From Quantity to Quality (arXiv 2308.12032). The paper drops rows with an IFD of
    1 or more as misaligned. Here they stay, so that every score selects from the same rows.

    Args:
        instructed: Mean negative log-likelihood per token of y after x, in nats; positive.
        alone: The same without x.
    """
    return instructed / alone


def rollout_spread(rewards: Sequence[float], beta: float) -> float:
    """Return EPS(x) = sum_i r_i softmax(r / beta)_i - mean r: the gain of the student's better answers over their mean.

    It is 0 if all answers have the same reward, which holds for rows that are too easy and for hopeless rows. Source:
    EPS, a statistic of rollouts proposed in place of MFD.

    Args:
        rewards: Judge points of several sampled answers.
        beta: Temperature in points; positive.
    """
    # Subtracting the maximum keeps exp() from overflowing; the weights stay proportional to the softmax.
    best = max(rewards)
    weights = [exp((reward - best) / beta) for reward in rewards]
    return sum(w * r for w, r in zip(weights, rewards, strict=True)) / sum(weights) - fmean(rewards)


def rated_complexity(rating: float) -> float:
    """Return the judge's rating of the instruction's complexity, from 1 to 10, for any student.

    After the complexity scorer of DEITA (arXiv 2312.15685), which is a trained model; here the judge rates.
    """
    return rating


def response_length(response: str) -> float:
    """Return the length of the target response in characters.

    Source: Long Is More for Alignment (arXiv 2402.04833), which counts tokens.
    """
    return float(len(response))


def choose_hard(scores: Scores, curriculum: CurriculumConfig, seed: int) -> frozenset[str]:
    """Return the ids of the hard set.

    With `mfd`, these are the rows with a gap above delta. With `random`, they are as many rows, drawn without regard to
    their gap. Any other score selects the fraction `hard_fraction` with the highest scores.

    Args:
        scores: Difficulty by row id.
        curriculum: The score, its threshold and its fraction.
        seed: Seed of the run; it determines the random draw and ties.
    """
    hard = frozenset(row_id for row_id, score in scores.items() if score > curriculum.delta)
    if curriculum.difficulty is Difficulty.mfd:
        return hard
    drawn = sorted(scores, key=lambda row_id: derive_uniform(seed, "hard set", row_id))
    if curriculum.difficulty is Difficulty.random:
        return frozenset(drawn[: len(hard)])
    hardest = sorted(drawn, key=scores.__getitem__, reverse=True)  # a stable sort: ties stay in the drawn order
    return frozenset(hardest[: round(curriculum.hard_fraction * len(hardest))])
