"""What a run will ask and cost, before its first call. Pure; every assumption is a constant here, and ours.

Counts that the configuration settles are exact. What depends on students that are not trained yet is an upper bound
(how many rows the teacher has to write) or an assumption (how long replies are).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass
from math import ceil
from statistics import fmean

from tapir_exp.config import BudgetConfig, ClassifierKind, Config, Difficulty, JudgeProtocol, LLMConfig
from tapir_exp.core.records import Example
from tapir_exp.core.task_types import TaskType
from tapir_exp.distillation.judge.requests import presentation_orders
from tapir_exp.distillation.prompts import load_prompt, refinement_style
from tapir_exp.llm.pricing import get_price
from tapir_exp.student.training.memory import num_parameters

CHARACTERS_PER_TOKEN = 4.0
"""English prose under the usual tokenizers."""
LABEL_TOKENS = 4
"""A reply that names a task type."""
RATING_TOKENS = 2
"""A reply that rates how complex an instruction is."""
VERDICT_TOKENS = 120
"""A judge's scores and its reasons; a preference by log-probabilities is one token."""
REFINED_TIMES = 1.5
"""How much longer a refined response is."""
PEAK_FLOPS = 312e12
"""Of the GPU in whose hours a fit is told: an A100 in bfloat16, by its data sheet."""
UTILISATION = 0.4
"""Share of that which a fit gets out of it."""
FLOPS_PER_TOKEN = 6
"""Of training, per parameter and token: forward and backward (Kaplan et al. 2020)."""


@dataclass(frozen=True)
class SeedStatistics:
    """What is known of the seeds: how many, and the mean length of an instruction and a response, in tokens."""

    seeds: int
    instruction: float
    response: float


@dataclass(frozen=True)
class StageEstimate:
    """One stage's calls and cost.

    share: two jobs whose stages have the same share make this one once.
    prompt_tokens, completion_tokens: of all its calls. usd: None where the price is not known.
    gpu_hours: of its fit; None where it has none, or where the size of the student is not known.
    """

    stage: str
    role: str
    calls: int
    prompt_tokens: float
    completion_tokens: float
    usd: float | None
    gpu_hours: float | None
    share: str
    at_most: bool = False


def seed_statistics(seeds: list[Example]) -> SeedStatistics:
    """The sizes of seeds, of which there is at least one."""
    return SeedStatistics(
        seeds=len(seeds),
        instruction=fmean(len(seed.instruction) for seed in seeds) / CHARACTERS_PER_TOKEN,
        response=fmean(len(seed.response) for seed in seeds) / CHARACTERS_PER_TOKEN,
    )


def estimate_run(config: Config, sizes: SeedStatistics) -> list[StageEstimate]:
    """Every stage of a run that asks a chat model or fits a student, in their order."""
    return list(_before_the_rounds(config, sizes)) + [
        stage for number in range(1, config.curriculum.rounds + 1) for stage in _round(config, sizes, number)
    ]


def _before_the_rounds(config: Config, sizes: SeedStatistics) -> Iterator[StageEstimate]:
    row = sizes.instruction + sizes.response
    student = _share(config.seeds, config.student, config.sft, config.trainer, config.seed, config.lab)
    if kept := config.evals.held_out_size:
        told = _share(config.seeds, config.teacher, kept)
        yield _calls(
            "held_out_teacher_responses", "teacher", config.teacher.llm, kept, sizes.instruction, sizes.response, told
        )
    yield _fit(config, 0, config.sft.seed_stage, sizes.seeds, row, student)
    yield from _held_out(config, 0, sizes, f"{student} {_share(config.judge, kept)}")
    if config.curriculum.rounds == 0:
        return
    labelled, answered = _share(config.seeds, config.classifier), _share(config.seeds, config.teacher)
    yield from _labels(config, "task_labels", sizes.seeds, sizes, labelled)
    yield _calls(
        "teacher_responses", "teacher", config.teacher.llm, sizes.seeds, sizes.instruction, sizes.response, answered
    )
    yield from _scores(config, 0, sizes.seeds, sizes, f"{student} {answered} {_share(config.judge)}")


def _round(config: Config, sizes: SeedStatistics, number: int) -> Iterator[StageEstimate]:
    """A round in which the pool holds nothing of what is wanted, so that the teacher has to write all of it."""
    teacher, rows = config.teacher, config.curriculum.rows_per_round
    share = f"{number} {_share(config)}"
    pair = sizes.instruction + sizes.response
    orders = ceil(rows / teacher.num_output_samples)
    shown = _prompt_tokens("expand") + teacher.num_in_context_samples * pair
    yield _calls(
        f"expansions-{number}", "teacher", teacher.llm, orders, shown, teacher.num_output_samples * pair, share, True
    )
    yield from _labels(config, f"expansions-{number}", rows, sizes, share, at_most=True)
    if teacher.max_complexity_gap is not None:
        rated = rows + orders * teacher.num_in_context_samples
        asked = _prompt_tokens("judge/complexity") + sizes.instruction
        llm = config.judge.llm
        yield _calls(f"expansions-{number}", "judge", llm, rated, asked, RATING_TOKENS, share, at_most=True)
    if config.curriculum.refine:
        asked = _prompt_tokens("refine") + len(refinement_style(TaskType.MATH).text) / CHARACTERS_PER_TOKEN + pair
        yield _calls(f"train_mix-{number}", "teacher", teacher.llm, rows, asked, REFINED_TIMES * sizes.response, share)
    longer = REFINED_TIMES if config.curriculum.refine else 1.0
    yield _fit(config, number, config.sft.round_stage, rows, sizes.instruction + longer * sizes.response, share)
    yield from _held_out(config, number, sizes, share)
    if number < config.curriculum.rounds:
        yield from _scores(config, number, rows, sizes, share)


def _labels(
    config: Config, stage: str, rows: int, sizes: SeedStatistics, share: str, *, at_most: bool = False
) -> Iterator[StageEstimate]:
    """The calls of a chat model that labels; a trained classifier asks nobody."""
    if config.classifier.kind is not ClassifierKind.llm:
        return
    asked = _prompt_tokens("label") + len(", ".join(TaskType)) / CHARACTERS_PER_TOKEN + sizes.instruction
    yield _calls(stage, "classifier", config.classifier.llm, rows, asked, LABEL_TOKENS, share, at_most)


def _scores(config: Config, number: int, rows: int, sizes: SeedStatistics, share: str) -> Iterator[StageEstimate]:
    """The judge's verdicts, and what it is asked for the configured difficulty on top."""
    curriculum = config.curriculum
    yield _verdicts(config, f"verdicts-{number}", rows, sizes, share)
    if curriculum.difficulty is Difficulty.eps:
        rollouts, drawn = rows * curriculum.rollouts.num_samples, _share(curriculum.rollouts, config.seed)
        yield _verdicts(config, f"rollout_verdicts-{number}", rollouts, sizes, f"{share} {drawn}")
    if curriculum.difficulty is Difficulty.judge_rated:
        asked = _prompt_tokens("judge/complexity") + sizes.instruction
        yield _calls(f"ratings-{number}", "judge", config.judge.llm, rows, asked, VERDICT_TOKENS, share)


def _held_out(config: Config, number: int, sizes: SeedStatistics, share: str) -> Iterator[StageEstimate]:
    """The judge's verdicts on a student beside the one before it, where anything is kept out of training."""
    if config.evals.held_out_size:
        yield _verdicts(config, f"held_out_verdicts-{number}", config.evals.held_out_size, sizes, share)


def _verdicts(config: Config, stage: str, rows: int, sizes: SeedStatistics, share: str) -> StageEstimate:
    judge, orders = config.judge, presentation_orders(config.judge)
    shown = len(orders[0].shown) * sizes.response + (sizes.response if judge.reference else 0.0)
    asked = _prompt_tokens(f"judge/{judge.protocol.value}") + sizes.instruction + shown
    written = 1 if judge.protocol is JudgeProtocol.pair_logprobs else VERDICT_TOKENS
    return _calls(stage, "judge", judge.llm, rows * len(orders), asked, written, share)


def _calls(
    stage: str,
    role: str,
    llm: LLMConfig,
    calls: int,
    prompt: float,
    completion: float,
    share: str,
    at_most: bool = False,
) -> StageEstimate:
    """A stage of `calls` calls, each of so many prompt and completion tokens."""
    price = get_price(llm, batched=llm.batch)
    usd = None if price is None else calls * (prompt * price.prompt + completion * price.completion)
    return StageEstimate(stage, role, calls, calls * prompt, calls * completion, usd, None, share, at_most)


def _fit(config: Config, number: int, budget: BudgetConfig, rows: int, row_tokens: float, share: str) -> StageEstimate:
    tokens = budget.max_tokens if budget.max_tokens is not None else (budget.epochs or 0.0) * rows * row_tokens
    parameters = num_parameters(config.student)
    hours = None
    if parameters is not None:
        hours = FLOPS_PER_TOKEN * parameters * tokens / (PEAK_FLOPS * UTILISATION) / 3600
    return StageEstimate(f"student-{number}", "fit", 0, 0.0, 0.0, 0.0, hours, share)


def _prompt_tokens(name: str) -> float:
    return len(load_prompt(name).text) / CHARACTERS_PER_TOKEN


def _share(*sections: object) -> str:
    """What two jobs that share a stage have in common: these sections of the configuration, to the letter."""
    plain = [asdict(part) if is_dataclass(part) and not isinstance(part, type) else part for part in sections]
    return repr(plain)
