"""Settings of the teacher."""

from dataclasses import dataclass, field

from tapir_exp.config.llm import LLMConfig


@dataclass
class TeacherConfig:
    """The teacher T: it answers, expands and refines."""

    llm: LLMConfig = field(default_factory=LLMConfig)
    temperature: float = 0.7
    """Sampling temperature of expansion; answers and refinements are written at 0."""
    max_tokens: int = 1024
    """Length limit of a reply, in tokens."""
    num_output_samples: int = 4
    """New instruction-response pairs asked for in one expansion call."""
    num_in_context_samples: int = 3
    """Seeds shown in one expansion call."""
    max_expansion_passes: int = 3
    """How often unfilled orders are asked for again."""
    allow_untagged_refinements: bool = False
    """Whether a refinement without any tag is read as it stands, as small teachers like to write it; what they say
    around it then goes into the training row. Ours."""
    max_rouge_l: float = 0.7
    """An expansion whose ROUGE-L with any instruction seen exceeds this is refused; 1 refuses only repeats.
    0.7 is Lion's value (P)."""
    max_complexity_gap: float | None = None
    """Have the judge rate how complex a new instruction is, from 1 to 10, and refuse it where that is further than so
    many points from the mean of its examples. Null asks for no ratings. The paper wants similar difficulty (P);
    this way of seeing to it is ours."""
    max_failure_rate: float = 0.05
    """Share of failed rows above which a stage stops, 0 to 1."""
