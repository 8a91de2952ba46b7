"""How hard a row is for a student, by one of six scores, and the hard set that a score selects. Pure.

Every score grows with difficulty. MFD, the paper's, has a threshold in judge points; the others live on scales of
their own, where no such threshold means anything, so they all select the same share of rows: those that score highest.
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
    """MFD by row id, in points from -9 to 9, of every scored verdict; unscored ones are absent.

    MFD(x) = score(teacher) - score(student). Source: TAPIR (arXiv 2405.13448), which prints it as student minus teacher
    but says in words that a gap above the threshold means hard.
    """
    return {verdict.id: verdict.gap for verdict in verdicts if verdict.gap is not None}


def instruction_following_difficulty(instructed: float, alone: float) -> float:
    """IFD(x, y) = L(y | x) / L(y): how little the instruction x helps the student to write the response y.

    instructed, alone: mean negative log-likelihood per token of y after x, and of y without x, in nats; both positive.
    Source: Cherry / Reflection-Tuning, From Quantity to Quality (arXiv 2308.12032). It leaves rows with IFD of 1 or
    more out, as misaligned; we keep them, so that every score chooses among the same rows.
    """
    return instructed / alone


def rollout_spread(rewards: Sequence[float], beta: float) -> float:
    """EPS(x) = sum_i r_i softmax(r / beta)_i - mean r: what the student's better answers gain over its mean one.

    rewards: judge points of several sampled answers; beta: in points, more than 0. It is 0 where all answers are worth
    the same, which is so of rows that are too easy and of rows that are hopeless. Source: EPS (PAPER.md).
    """
    best = max(rewards)
    weights = [exp((reward - best) / beta) for reward in rewards]
    return sum(w * r for w, r in zip(weights, rewards, strict=True)) / sum(weights) - fmean(rewards)


def rated_complexity(rating: float) -> float:
    """The complexity of the instruction, from 1 to 10, as the judge rates it, whoever the student is.

    After the complexity scorer of DEITA (arXiv 2312.15685), which is a trained model; here the judge is asked.
    """
    return rating


def response_length(response: str) -> float:
    """Characters of the response that the student is to learn. Source: Long Is More (arXiv 2402.04833), in tokens."""
    return float(len(response))


def choose_hard(scores: Scores, curriculum: CurriculumConfig, seed: int) -> frozenset[str]:
    """Ids of the hard set.

    mfd: the rows with gap > delta. random: as many rows, drawn without looking at their gap. Any other score: the
    share `hard_share` of the rows, those that score highest; a draw decides among equals.
    """
    hard = frozenset(row for row, score in scores.items() if score > curriculum.delta)
    if curriculum.difficulty is Difficulty.mfd:
        return hard
    drawn = sorted(scores, key=lambda row: derive_uniform(seed, "hard set", row))
    if curriculum.difficulty is Difficulty.random:
        return frozenset(drawn[: len(hard)])
    hardest = sorted(drawn, key=scores.__getitem__, reverse=True)  # a stable sort: equals stay as drawn
    return frozenset(hardest[: round(curriculum.hard_fraction * len(hardest))])
