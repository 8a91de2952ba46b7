"""The allowed range of every numeric setting."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache

from tapir_exp.config.llm import AUTO
from tapir_exp.config.problems import Problem, Values, format_value


@dataclass(frozen=True)
class Range:
    """Allowed values of all keys that match one of the patterns."""

    patterns: tuple[str, ...]
    text: str
    holds: Callable[[float], bool]


RANGES = (
    Range(
        (
            "lab.*_rate",
            "*.max_failure_rate",
            "*.max_drop_rate",
            "*judge.max_unusable_responses",
            "*judge.check_min_accuracy",
            "*.alpha",
            "*.hard_fraction",
            "*.new_share",
            "*.min_example_confidence",
            "curriculum.replay",
            "*.warmup_ratio",
            "sft.*_ratio",
            "sft.peak_decay",
            "*.dropout",
        ),
        "a share from 0 to 1",
        lambda v: 0 <= v <= 1,
    ),
    Range(
        ("*.max_rouge_l", "*.dedup_threshold", "*.overlap_threshold"),
        "a share from 0 to 1, and more than 0, with which every row would be dropped",
        lambda v: 0 < v <= 1,
    ),
    Range(
        (
            "*.concurrency",
            "*.max_concurrency",
            "*.max_attempts",
            "*.requests_per_minute",
            "*.tokens_per_minute",
            "lab.student.vocab_size",
            "lab.student.hidden_size",
            "lab.student.intermediate_size",
            "lab.student.num_layers",
            "lab.student.num_heads",
            "teacher.max_tokens",
            "*judge.max_tokens",
            "*judge.notes_max_tokens",
            "*judge.samples",
            "classifier.max_tokens",
            "*.num_output_samples",
            "*.num_in_context_samples",
            "*.max_expansion_passes",
            "*.ngram_size",
            "student.max_length",
            "*.max_new_tokens",
            "*.generation_batch_size",
            "seeds.size",
            "*.rows_per_round",
            "*.max_new_rows",
            "*.global_batch_size",
            "*.max_tokens_per_micro_batch",
            "*.save_steps",
            "sft.average_checkpoints",
            "trainer.devices",
            "trainer.num_nodes",
            "*.rank",
            "sft.lora.alpha",
            "classifier.batch_size",
            "classifier_training.max_length",
            "classifier_training.batch_size",
            "classifier_training.epochs",
            "classifier_training.patience",
            "sample",
            "folds_evaluated",
            "bootstrap_samples",
        ),
        "at least 1",
        lambda v: v >= 1,
    ),
    Range(("folds", "curriculum.rollouts.num_samples"), "at least 2", lambda v: v >= 2),
    Range(
        (
            "*.timeout_s",
            "*.startup_timeout_s",
            "time_budget_minutes",
            "*.learning_rate",
            "*.max_grad_norm",
            "classifier_training.regularization_c",
            "spend.*",
            "student.num_parameters",
            "trainer.peak_tflops",
            "*.rows_per_seed",
            "curriculum.rollouts.temperature",
            "*.beta",
        ),
        "more than 0",
        lambda v: v > 0,
    ),
    Range(
        (
            "classifier_training.validation_fraction",
            "sft.beta2",
            "curriculum.select_confidence",
            "classifier.min_confidence",
        ),
        "between 0 and 1",
        lambda v: 0 < v < 1,
    ),
    Range(
        (
            "seed",
            "*.seed",
            "*.usd_per_million_*",
            "*.judge_noise",
            "*judge.check",
            "*.rounds",
            "*.epochs",
            "*.extra_rows",
            "sft.*.max_tokens",
            "*.weight_decay",
            "*.problems_per_level",
            "*.held_out_size",
            "seeds.reserve",
            "*.fresh_surplus",
            "*.min_examples",
            "*.max_restarts",
            "*.reasoning_tokens",
            "student.architecture.*",
            "logger.curriculum_rows",
        ),
        "0 or more",
        lambda v: v >= 0,
    ),
    Range(("trainer.port",), "a port from 1024 to 65535", lambda v: 1024 <= v <= 65535),
    Range(("*judge.top_logprobs",), "from 2 to 20", lambda v: 2 <= v <= 20),
    Range(("*.max_complexity_gap",), "from 0 to 9, in points of the judge", lambda v: 0 <= v <= 9),
    Range(("*.temperature",), "from 0 to 2", lambda v: 0 <= v <= 2),
    Range(
        ("curriculum.delta", "lab.judge_position_bias"), "from -9 to 9, in points of the judge", lambda v: -9 <= v <= 9
    ),
    Range(("curriculum.delta_alpha",), "from -1 to 1", lambda v: -1 <= v <= 1),
)


CEILINGS = (
    (("seed", "*.seed"), 2**32 - 1),
    (
        ("curriculum.rounds", "lab.student.num_layers", "lab.student.num_heads", "*.max_attempts", "*.max_restarts"),
        1_000,
    ),
    (("*judge.samples", "curriculum.rollouts.num_samples", "*.num_output_samples", "*.num_in_context_samples"), 1_000),
    (("*.max_expansion_passes", "*.average_checkpoints", "*.ngram_size", "folds", "folds_evaluated"), 1_000),
    (("curriculum.rollouts.temperature", "curriculum.rollouts.beta", "lab.judge_noise"), 1_000),
    (("*.concurrency", "*.max_concurrency", "trainer.devices", "trainer.num_nodes", "*.patience"), 10_000),
    (("*.epochs", "*.fresh_surplus", "sft.lora.*", "sft.learning_rate", "sft.weight_decay"), 10_000),
    (("classifier_training.learning_rate", "classifier_training.weight_decay"), 10_000),
    (("lab.student.*_size", "*batch_size", "*.problems_per_level", "bootstrap_samples"), 1_000_000),
    (("student.max_length", "*.max_new_tokens", "teacher.max_tokens", "*judge.*max_tokens"), 10_000_000),
    (("classifier.max_tokens", "classifier_training.max_length", "*.reasoning_tokens"), 10_000_000),
    (("*.max_tokens_per_micro_batch", "*.usd_per_million_*", "time_budget_minutes", "*timeout_s"), 10_000_000),
    (("sft.*.max_tokens", "spend.*", "*.tokens_per_minute", "student.num_parameters"), 10**15),
    (("*",), 10**9),
)
"""Largest value of each number; the first pattern that matches counts. Larger ones hang, or overflow in a library."""


def check_ranges(values: Values) -> Iterator[Problem]:
    """Yield a problem for every number outside its range."""
    for key, value in values.items():
        if fnmatchcase(key, "*.llm.concurrency") and isinstance(value, str) and value != AUTO:
            yield Problem(key, format_value(key, value), f"a whole number of at least 1, or {AUTO}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for limits in _ranges_of(key):
            if not (_is_finite(value) and limits.holds(value)):
                yield Problem(key, format_value(key, value), limits.text)
                break
        else:
            ceiling = _ceiling_of(key)
            if not (_is_finite(value) and value <= ceiling):
                yield Problem(key, format_value(key, value), f"a number of at most {ceiling}")


def _is_finite(value: float) -> bool:
    # An integer of hundreds of digits is finite, but math.isfinite cannot convert it.
    return isinstance(value, int) or math.isfinite(value)


# The jobs of a sweep have the same keys, and many patterns are compared with each.
@cache
def _ceiling_of(key: str) -> int:
    return next(most for patterns, most in CEILINGS if any(fnmatchcase(key, pattern) for pattern in patterns))


@cache
def _ranges_of(key: str) -> tuple[Range, ...]:
    """Return the ranges of a key; a range with its full name takes precedence over patterns."""
    exact = tuple(r for r in RANGES if key in r.patterns)
    return exact or tuple(r for r in RANGES if any(fnmatchcase(key, pattern) for pattern in r.patterns))
