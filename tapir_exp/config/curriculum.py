"""Settings of the rounds."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING


class Difficulty(Enum):
    """By which score the hard set is chosen; `difficulty.py` has the formulas and their sources."""

    mfd = "mfd"
    ifd = "ifd"
    eps = "eps"
    judge_rated = "judge_rated"
    response_length = "response_length"
    random = "random"


class RoundsMode(Enum):
    """Whether the rounds stay apart; merging them keeps the rows and the training tokens that they have together."""

    separate = "separate"
    merged = "merged"
    seeds_only = "seeds_only"


@dataclass
class RolloutConfig:
    """The sampled answers of the student by which `curriculum.difficulty=eps` scores a row."""

    num_samples: int = 4
    """Answers sampled for each row; each is judged like the student's greedy one."""
    temperature: float = 1.0
    """At which they are sampled; more than 0."""
    beta: float = 1.0
    """How much better than another an answer must be to outweigh it e-fold, in judge points; more than 0."""


@dataclass
class CurriculumConfig:
    """The multi-round plan."""

    rounds: int = 3
    """Distillation rounds; 3 (R). 0 leaves the student at S_0."""
    difficulty: Difficulty = Difficulty.mfd
    """The score by which rows are hard; all but mfd (P) are ablations. `random` takes as many rows as mfd would."""
    delta: float = 2.0
    """Under mfd and random, the hard set is what has gap > delta, or as many rows, in judge points; 2 (R)."""
    hard_fraction: float = 0.21
    """Under any other score, the hard set is this share of the rows, those that score highest; TAPIR's seed set is
    about 11k of 52k (R)."""
    alpha: float = 0.3
    """Weight of the hard set in the loss of round 1, 0 to 1; 0.3 (R)."""
    delta_alpha: float = 0.2
    """Added to alpha after every round; 0.2 (R)."""
    rows_per_round: int = MISSING
    """Rows of a round's mix, hard and rest together."""
    rounds_mode: RoundsMode = RoundsMode.separate
    """`into_one` runs one round with the rows and the budget of all; `into_start` runs none and gives their budget to
    S_0's fit on the seeds. `parse` does the sum, so an arm that merges follows every change of the budgets."""
    refine: bool = True
    """Whether the teacher rewrites its responses in the style the task type needs."""
    rollouts: RolloutConfig = field(default_factory=RolloutConfig)
