"""Settings of the judge."""

from dataclasses import dataclass, field
from enum import Enum

from tapir_exp.config.llm import LLMConfig


class JudgeProtocol(Enum):
    """What the judge is asked, and how its completion becomes scores from 1 to 10."""

    pair_scores = "pair_scores"
    single_score = "single_score"
    pair_logprobs = "pair_logprobs"


@dataclass
class JudgeConfig:
    """The judge J, which scores the responses of teacher and student from 1 to 10."""

    llm: LLMConfig = field(default_factory=LLMConfig)
    """The chat model."""
    protocol: JudgeProtocol = JudgeProtocol.pair_scores
    """`pair_scores`: two scores in one completion (D). `single_score`: each response alone. `pair_logprobs`, for small
    local judges: the preference by log-probabilities of the first token, mapped to a gap of 9 (2 p - 1)."""
    swap_positions: bool = True
    """Whether each pair is also judged with the responses swapped, and the scores averaged. Lion does so (P for Lion);
    not known for TAPIR. Ignored by `single_score`."""
    reference: bool = False
    """Whether the judge also sees the response of the dataset. Rows that the teacher wrote have none."""
    stream_while_generating: bool = True
    """Whether responses are judged while others are still generated; the verdicts are the same. Use false if judge and
    student share one processor or GPU. Batches always start after the responses."""
    temperature: float = 0.0
    """Sampling temperature."""
    max_tokens: int = 512
    """Length limit of a completion, in tokens."""
    max_failure_rate: float = 0.05
    """Share of unscored rows above which the stage stops, 0 to 1."""
    max_unusable_responses: float = 0.9
    """Share of a student's empty or cut responses above which the run stops before it asks the judge, 0 to 1; 1 asks in
    any case. Ours."""
    check: int = 0
    """Pairs with a known better answer that the judge is checked on before the first verdict; 0 checks nothing. Ours.
    """
    check_pairs: str | None = None
    """File of labelled pairs for `check`, as `tapir judge-check` reads it. Null takes the lab's problems, or else the
    teacher's responses against spoilt copies of them, and against themselves."""
    check_min_accuracy: float = 0.7
    """Least share of right verdicts in the check, 0 to 1; a tie is not right."""
    check_stop: bool = False
    """Whether a judge below `check_min_accuracy` stops the run; otherwise a warning is printed."""
