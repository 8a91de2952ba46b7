"""Settings of the rounds."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING


class Difficulty(Enum):
    """Score that selects the hard set; `distillation/curriculum/difficulty.py` has the formulas and their sources."""

    mfd = "mfd"
    ifd = "ifd"
    eps = "eps"
    judge_rated = "judge_rated"
    response_length = "response_length"
    random = "random"


class RoundsMode(Enum):
    """Whether the rounds are separate fits; the other modes keep their total rows and training tokens."""

    separate = "separate"
    merged = "merged"
    seeds_only = "seeds_only"


class GapRows(Enum):
    """What the gap of a new row is measured on: the student after its fit, or one that was not trained on the row."""

    trained = "trained"
    fresh = "fresh"


class SelectBy(Enum):
    """What is compared with delta under mfd; `distillation/judge/noise.py` has the formulas."""

    gap = "gap"
    lower_bound = "lower_bound"
    posterior = "posterior"


@dataclass
class RolloutConfig:
    """Sampled responses of the student, by which `curriculum.difficulty=eps` scores a row."""

    num_samples: int = 4
    """Responses sampled for each row; each is judged like the greedy response."""
    temperature: float = 1.0
    """Sampling temperature, more than 0."""
    beta: float = 1.0
    """Points by which a response must be better than another to get e times its weight, more than 0."""


@dataclass
class CurriculumConfig:
    """The multi-round plan."""

    rounds: int = 3
    """Distillation rounds; 3 (R). With 0 the student stays at S_0."""
    difficulty: Difficulty = Difficulty.mfd
    """Score that selects the hard set. All but mfd (P) are ablations; `random` selects as many rows as mfd would."""
    delta: float = 2.0
    """Threshold of the hard set under mfd (gap > delta) and random (as many rows), in judge points; 2 (R)."""
    select_by: SelectBy = SelectBy.gap
    """What must exceed delta: the gap (P), its lower bound by the judge's noise, or `posterior`, the bound of the gap
    shrunk by that noise. The noise is the disagreement of the presentation orders, so `judge.swap_positions` is needed.
    Ours."""
    select_confidence: float = 0.8
    """Probability with which a gap selected by lower_bound or posterior exceeds delta, between 0 and 1. Ours."""
    hard_fraction: float = 0.21
    """Share of the rows in the hard set under any other score, the highest first. TAPIR's seed set has about 11k of 52k
    rows (R)."""
    alpha: float = 0.3
    """Weight of the hard set in the loss of round 1, 0 to 1; 0.3 (R)."""
    delta_alpha: float = 0.2
    """Increase of alpha after every round; 0.2 (R)."""
    rows_per_round: int | None = MISSING
    """Rows of a round's mix, hard set and rest together; null takes `rows_per_seed` of the seeds."""
    rows_per_seed: float = 0.45
    """Rows of a round's mix for each seed, if `rows_per_round` is null. The value 0.45 is the ratio of the paper's
    sizes: 70k pairs (P) in three rounds (R), from 52k seeds."""
    rounds_mode: RoundsMode = RoundsMode.separate
    """`merged` runs one round with the rows and tokens of all rounds. `seeds_only` runs none and adds their tokens to
    the fit on the seeds, or their passes over rows if budgets are in epochs. `parse` computes the sums, so such an arm
    follows every change of the budgets."""
    new_share: float | None = None
    """Least share of new rows in each task type and subset of a mix, 0 to 1; null requests only what the pool lacks.
    Ours."""
    max_new_rows: int | None = None
    """Most rows that all rounds together request of the teacher; each round may request an equal part. Null sets no
    limit. Under a limit, the mix shrinks until its requests fit, so that its task types and alpha stay as configured.
    Ours.
    """
    min_examples: int = 0
    """Least examples that the requests of a task type and subset show in turn, if the type has as many. Rows of the
    other subset fill up. A few examples, one of them mislabelled, make the teacher write another type. Ours."""
    min_example_confidence: float = 0.0
    """Least confidence of an example's task type, 0 to 1. Examples below it are shown only if the type has no other;
    without a confidence, an example counts as sure. Ours."""
    replay: float = 0.0
    """Share of the rows of each earlier round's mix that is trained again, 0 to 1; 1 trains on all mixes so far. Ours.
    """
    gap_rows: GapRows = GapRows.trained
    """`trained` judges the student on its mix after the fit. `fresh` judges the student of the round before on the new
    rows, ahead of the fit; this gap determines the subset of a new row. Both readings are ours."""
    fresh_surplus: float = 0.0
    """Rows requested beyond the plan under `gap_rows=fresh`, relative to the plan, since a row may turn out to belong
    to the other subset. Rows beyond a quota enter the pool. Ours."""
    drop_easy_expansions: bool = False
    """Whether `gap_rows=fresh` drops new rows of a hard request that the student answers (gap <= delta) and requests
    them again, in at most `teacher.max_expansion_passes` passes. Ours."""
    report_trained_gaps: bool = False
    """Whether `gap_rows=fresh` also judges each student on its mix after the fit; reports show both gaps."""
    refine: bool = True
    """Whether the teacher rewrites its responses in the style of the task type."""
    rollouts: RolloutConfig = field(default_factory=RolloutConfig)
    """Sampled responses of `difficulty=eps`."""

    @property
    def round_rows(self) -> int:
        """Return the rows of a round's mix.

        Raises:
            ValueError: If they follow from the seeds, which are not known yet; see `pipeline/sizing.py`.
        """
        if self.rows_per_round is None:
            raise ValueError("rows_per_round is null; expected a number, or a call of `fit_sizes` first")
        return self.rows_per_round
