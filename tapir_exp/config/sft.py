"""Settings of supervised fine-tuning."""

from dataclasses import dataclass, field
from enum import Enum


class Method(Enum):
    """Trained weights: all of them, a low-rank adapter, or an adapter on a base in 4 bits."""

    full = "full"
    lora = "lora"
    qlora = "qlora"


class LRSchedule(Enum):
    """Learning rate over the rounds; `student/training/schedule.py` has the formulas and their sources."""

    restart = "restart"
    one = "one"
    wsd = "wsd"
    falling = "falling"


class OptimizerState(Enum):
    """Moments and step count of Adam at the start of a round."""

    new = "new"
    carried = "carried"


class RoundStart(Enum):
    """Model from which each round starts."""

    previous = "previous"
    base = "base"
    s0 = "s0"


class JudgedStudent(Enum):
    """Weights of a round that are judged, evaluated and exported."""

    as_trained = "as_trained"
    annealed = "annealed"
    average = "average"


@dataclass
class BudgetConfig:
    """Length of a fit; exactly one of epochs and max_tokens is set."""

    epochs: float | None = None
    """Passes over the rows."""
    max_tokens: int | None = None
    """Training tokens, prompt and response, without padding."""
    extra_rows: int = 0
    """Rows trained beyond the epochs. `curriculum.rounds_mode=seeds_only` sets it to those of the rounds, so that such
    an arm trains as many rows as all rounds together. Ours."""


@dataclass
class LoraConfig:
    """Low-rank adapters of `sft.method` lora and qlora. A student that has an adapter continues it."""

    rank: int = 16
    """Rank of the adapter matrices."""
    alpha: int = 32
    """Scale: the adapter's output is multiplied by alpha / rank."""
    dropout: float = 0.05
    """Dropout before the adapter, 0 to 1."""
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])
    """Names of the linear layers that get an adapter."""


@dataclass
class SFTConfig:
    """Supervised fine-tuning. The defaults are those of neighbouring recipes (D)."""

    method: Method = Method.full
    """Which weights are trained."""
    seed_stage: BudgetConfig = field(default_factory=BudgetConfig)
    """Length of the fit on the seeds, which makes S_0; with 0 the base model is S_0."""
    round_stage: BudgetConfig = field(default_factory=BudgetConfig)
    """Length of the fit of one round."""
    learning_rate: float = 2e-5
    """Peak learning rate."""
    warmup_ratio: float = 0.03
    """Share of the steps with a rising learning rate: of the fit, or of all rounds under lr_schedule=one."""
    lr_schedule: LRSchedule = LRSchedule.restart
    """Learning rate over the rounds (ours). `restart`: warmup and cosine in each round. `one`: a single warmup and
    cosine over all rounds. `wsd`: warmup in round 1, then constant, and a linear decay at the end of the last round.
    `falling`: restarts with ever lower peaks. The fit on the seeds is always a warmup and a cosine of its own."""
    decay_ratio: float = 0.2
    """Share of the last round's steps in which the rate falls to 0 under wsd (ours), 0 to 1."""
    peak_decay: float = 0.5
    """Factor on the peak from round to round under falling (ours), 0 to 1."""
    round_start: RoundStart = RoundStart.previous
    """Model from which each round starts: the student of the previous round, the base model, or S_0."""
    optimizer_state: OptimizerState = OptimizerState.new
    """State of Adam at the start of a round: `new`, or `carried` over from the previous round. Round 1 starts new."""
    average_checkpoints: int = 1
    """Weights in the average of judged_student=average, evenly spaced over the end of a round; 1 is no average."""
    average_ratio: float = 0.2
    """Share of a round's steps over which the averaged weights are spaced (ours), 0 to 1."""
    judged_student: JudgedStudent = JudgedStudent.as_trained
    """Weights that are judged, evaluated and exported: those of the round's end; `annealed` by a short branch whose
    rate falls to 0; or the `average` of the last checkpoints. The next round continues the student as trained."""
    anneal_ratio: float = 0.1
    """Length of the branch of judged_student=annealed as a share of the round's budget (ours), 0 to 1."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    beta2: float = 0.999
    """Decay of AdamW's second moment, between 0 and 1; torch's default."""
    global_batch_size: int = 128
    """Rows per optimiser step, over all micro-batches and devices."""
    max_tokens_per_micro_batch: int = 4096
    """Largest number of tokens per forward pass, prompt and response; a longer row is one micro-batch."""
    max_grad_norm: float = 1.0
    """Gradient norm above which gradients are clipped."""
    max_drop_rate: float = 0.05
    """Share of rows without a response token within student.max_length above which the fit is rejected, 0 to 1."""
    save_steps: int = 100
    """Optimiser steps between checkpoints; an interrupted fit resumes from the last one."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Low-rank adapters."""
