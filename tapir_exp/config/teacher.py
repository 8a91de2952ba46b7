"""Settings of the teacher."""

from dataclasses import dataclass, field

from tapir_exp.config.llm import LLMConfig


@dataclass
class TeacherConfig:
    """The teacher T, which responds to seeds, writes expansions and refines responses."""

    llm: LLMConfig = field(default_factory=LLMConfig)
    """The chat model."""
    temperature: float = 0.7
    """Sampling temperature of expansions; responses and refinements use 0."""
    max_tokens: int = 1024
    """Length limit of a completion, in tokens."""
    num_output_samples: int = 4
    """New instruction-response pairs requested in one expansion call."""
    num_in_context_samples: int = 3
    """Examples shown in one expansion call."""
    max_expansion_passes: int = 3
    """Passes over the rows that are still missing."""
    allow_untagged_refinements: bool = False
    """Whether a refinement without tags is accepted as a whole. Small teachers often omit the tags; comments around the
    response then become part of the training row. Ours."""
    max_rouge_l: float = 0.7
    """Largest ROUGE-L of an expansion with any known instruction, 0 to 1; 1 rejects only repetitions. 0.7 is the value
    of Lion (P)."""
    max_complexity_gap: float | None = None
    """Largest difference between the judge's complexity rating of an expansion and the mean of its examples, in points;
    null disables the ratings. The paper asks for similar difficulty (P); this filter is ours."""
    max_failure_rate: float = 0.05
    """Share of failed rows above which a stage stops, 0 to 1."""
