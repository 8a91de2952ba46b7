"""The allowed range of every numeric setting."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tapir_exp.config.problems import Problem, Values, format_value


@dataclass(frozen=True)
class Range:
    """Allowed values of every key that matches one of the patterns."""

    patterns: tuple[str, ...]
    text: str
    holds: Callable[[float], bool]


RANGES = (
    Range(
        (
            "lab.*_rate",
            "*.max_failed",
            "*.max_dropped",
            "*.alpha",
            "*.hard_share",
            "*.warmup",
            "*.novelty",
            "*.dropout",
            "*.near_duplicate",
            "*.overlap",
        ),
        "a share from 0 to 1",
        lambda v: 0 <= v <= 1,
    ),
    Range(
        (
            "*.concurrency",
            "*.attempts",
            "*.requests_per_minute",
            "*.tokens_per_minute",
            "lab.student.vocabulary",
            "lab.student.hidden",
            "lab.student.intermediate",
            "lab.student.layers",
            "lab.student.heads",
            "*.max_tokens",
            "*.per_call",
            "*.examples_per_call",
            "*.waves",
            "*.ngram",
            "student.max_length",
            "*.max_new_tokens",
            "*.generation_batch",
            "seeds.size",
            "*.rows",
            "*.batch_rows",
            "*.micro_batch_tokens",
            "*.checkpoint_steps",
            "trainer.devices",
            "trainer.num_nodes",
            "*.rank",
            "sft.lora.alpha",
            "classifier.batch",
            "fit.max_length",
            "fit.batch",
            "fit.epochs",
            "fit.patience",
            "sample",
            "held_out",
            "resamples",
        ),
        "at least 1",
        lambda v: v >= 1,
    ),
    Range(("folds", "curriculum.rollouts.answers"), "at least 2", lambda v: v >= 2),
    Range(
        (
            "*.timeout_s",
            "*.start_s",
            "budget",
            "*.learning_rate",
            "*.clip",
            "fit.inverse_penalty",
            "spend.*",
            "curriculum.rollouts.temperature",
            "*.beta",
        ),
        "more than 0",
        lambda v: v > 0,
    ),
    Range(("fit.validation",), "between 0 and 1", lambda v: 0 < v < 1),
    Range(
        (
            "seed",
            "*.seed",
            "*.usd_per_million_*",
            "*.judge_noise",
            "*.rounds",
            "*.epochs",
            "*.tokens",
            "*.weight_decay",
            "*.per_cell",
            "*.held_out",
            "*.restarts",
            "student.shape.*",
        ),
        "0 or more",
        lambda v: v >= 0,
    ),
    Range(("trainer.port",), "a port from 1024 to 65535", lambda v: 1024 <= v <= 65535),
    Range(("*.similar_within",), "from 0 to 9, in points of the judge", lambda v: 0 <= v <= 9),
    Range(("*.temperature",), "from 0 to 2", lambda v: 0 <= v <= 2),
    Range(
        ("curriculum.delta", "lab.judge_position_bias"), "from -9 to 9, in points of the judge", lambda v: -9 <= v <= 9
    ),
    Range(("curriculum.delta_alpha",), "from -1 to 1", lambda v: -1 <= v <= 1),
)


def check_ranges(values: Values) -> Iterator[Problem]:
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for limits in _ranges_of(key):
            if not (math.isfinite(value) and limits.holds(value)):
                yield Problem(key, format_value(key, value), limits.text)


def _ranges_of(key: str) -> list[Range]:
    """The ranges of a key: one that names it in full comes before one that matches by pattern."""
    exact = [r for r in RANGES if key in r.patterns]
    return exact or [r for r in RANGES if any(fnmatchcase(key, pattern) for pattern in r.patterns)]
