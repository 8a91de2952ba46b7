"""Settings of the judge."""

from dataclasses import dataclass, field
from enum import Enum

from tapir_exp.config.llm import LLMConfig


class JudgeProtocol(Enum):
    """What the judge is asked, and how its completion becomes scores from 1 to 10."""

    pair_scores = "pair_scores"
    single_score = "single_score"
    pair_logprobs = "pair_logprobs"
    pair_expected = "pair_expected"
    single_expected = "single_expected"

    @property
    def alone(self) -> bool:
        """Return whether a call shows one response only."""
        return self in (JudgeProtocol.single_score, JudgeProtocol.single_expected)

    @property
    def reads_logprobs(self) -> bool:
        """Return whether scores are computed from log-probabilities of tokens, which the endpoint must report."""
        return self in (JudgeProtocol.pair_logprobs, JudgeProtocol.pair_expected, JudgeProtocol.single_expected)


class PanelScore(Enum):
    """What the scores of a panel's judges become."""

    mean = "mean"
    median = "median"


@dataclass
class PanelMemberConfig:
    """A further judge of a panel."""

    llm: LLMConfig = field(default_factory=LLMConfig)
    """The chat model."""


@dataclass
class PanelConfig:
    """Judges beside `judge.llm`, which score the same pairs under the same protocol. Ours."""

    second: PanelMemberConfig | None = None
    """The second judge; null if there is none."""
    third: PanelMemberConfig | None = None
    """The third judge."""
    combine: PanelScore = PanelScore.mean
    """`mean` or `median` of the judges' scores. A row needs scores of more than half of the judges."""

    @property
    def members(self) -> dict[str, LLMConfig]:
        """Return the models of the further judges by name."""
        named = {"second": self.second, "third": self.third}
        return {name: member.llm for name, member in named.items() if member is not None}


@dataclass
class JudgeConfig:
    """The judge J, which scores the responses of teacher and student from 1 to 10."""

    llm: LLMConfig = field(default_factory=LLMConfig)
    """The chat model."""
    panel: PanelConfig = field(default_factory=PanelConfig)
    """Further judges, if several form a panel. Ratings of complexity and evaluation suites ask `llm` alone."""
    protocol: JudgeProtocol = JudgeProtocol.pair_scores
    """`pair_scores`: two scores in one completion (D). `single_score`: each response alone. `pair_logprobs`, for small
    local judges: the preference by log-probabilities of the first token, mapped to a gap of 9 (2 p - 1).
    `pair_expected` and `single_expected`: the mean of the scores 1 to 9, weighted by their probabilities, stretched to
    1 to 10. These three need an endpoint that reports log-probabilities."""
    swap_positions: bool = True
    """Whether each pair is also judged with the responses swapped, and the scores averaged. Lion does so (P for Lion);
    not known for TAPIR. Ignored by `single_score`."""
    reference: bool = False
    """Whether the prompt of the judge also has the response of the dataset. Rows that the teacher wrote have none."""
    own_reference: bool = False
    """Whether the judge first responds to the instruction itself. Its response is the reference of rows that have none:
    of all rows without `reference`. Takes one call per instruction. Ours, after LLMBar."""
    metrics: bool = False
    """Whether the judge first writes what to check for this instruction, and then judges by it. Takes one call per
    instruction. Ours, after LLMBar."""
    notes_max_tokens: int = 512
    """Length limit of the judge's own response, and of its metrics, in tokens."""
    samples: int = 1
    """Completions per presentation, whose scores are averaged; more than 1 needs a `temperature` above 0. Ours."""
    top_logprobs: int = 10
    """Candidates for a token that log-probabilities are requested of, 2 to 20. Some endpoints report at most 5."""
    stream_while_generating: bool = True
    """Whether responses are judged while others are still generated; the verdicts are the same. Use false if judge and
    student share one processor or GPU. Batches, and judges that write notes, always start after the responses."""
    temperature: float = 0.0
    """Sampling temperature."""
    max_tokens: int = 512
    """Length limit of a completion, in tokens."""
    max_failure_rate: float = 0.05
    """Share of unscored rows above which the stage stops, 0 to 1."""
    max_unusable_responses: float = 0.9
    """Share of a student's empty or cut responses above which the run stops before it asks the judge, 0 to 1. With 1 it
    asks in any case. Ours."""
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

    @property
    def models(self) -> tuple[LLMConfig, ...]:
        """Return the models of all judges, that of `llm` first."""
        return (self.llm, *self.panel.members.values())

    @property
    def judge_names(self) -> tuple[str, ...]:
        """Return the names of the judges of a panel, which differ; one empty name if there is no panel."""
        if len(self.models) == 1:
            return ("",)
        names = [model.model.rpartition("/")[2] for model in self.models]
        return tuple(f"{name} ({n})" if names.count(name) > 1 else name for n, name in enumerate(names, 1))

    @property
    def most_in_flight(self) -> int:
        """Return the largest number of calls in flight, of all judges together."""
        return sum(model.most_in_flight for model in self.models)

    @property
    def writes_notes(self) -> bool:
        """Return whether the judge writes about an instruction before it gets the responses."""
        return self.own_reference or self.metrics
