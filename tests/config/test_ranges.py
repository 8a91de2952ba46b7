"""Odd values of every number: none raises anything but a list of mistakes, and those that pass were reviewed."""

import re
from typing import get_args, get_origin

import pytest
from composing import compose_raw

from tapir_exp.config import CLASSIFY_SCHEMA, SCHEMA, parse
from tapir_exp.config.ranges import CEILINGS, check_ranges
from tapir_exp.config.validate import _check_lightning
from tapir_exp.core.errors import ConfigError

ODD = (0, -1, 2**63, 10**30, 10**400, 0.0, -1.0, 1e30, float("nan"), float("inf"), float("-inf"), -(2**63))
ZERO_IS_A_CHOICE = {
    *("seed", "rounds", "epochs", "max_tokens", "max_restarts", "reasoning_tokens", "temperature", "dropout", "alpha"),
    *("delta", "delta_alpha", "hard_fraction", "warmup_ratio", "weight_decay", "problems_per_level", "held_out_size"),
    *("extra_rows", "curriculum_rows"),
    *("judge_noise", "judge_position_bias", "max_failure_rate", "max_drop_rate", "max_complexity_gap"),
    *("teacher_error_rate", "expansion_error_rate", "classifier_error_rate"),
    *("usd_per_million_input", "usd_per_million_output"),
    *(
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
    ),
    *("new_share", "min_examples", "min_example_confidence", "replay", "fresh_surplus", "decay_ratio", "peak_decay"),
    *("average_ratio", "anneal_ratio", "min_confidence", "confidence", "validation_fraction"),
    *("max_unusable_responses", "check", "check_min_accuracy", "reserve"),
}
"""Names of settings of which 0 means something; of an architecture, 0 is unknown."""
NEGATIVE_IS_A_CHOICE = {"delta", "delta_alpha", "judge_position_bias"}


def numbers() -> list[str]:
    """Return every numeric leaf of both configurations."""
    keys = {**SCHEMA.keys, **CLASSIFY_SCHEMA.keys}
    single = {key: known.hint for key, known in keys.items() if get_origin(known.hint) is not dict}
    return [key for key, hint in single.items() if {int, float} & {hint, *get_args(hint)}]


def test_odd_numbers_are_refused_unless_reviewed() -> None:
    leaves = numbers()
    assert len(leaves) > 120
    unreviewed = []
    for key in leaves:
        for value in ODD:
            problems = list(check_ranges({key: value}))
            assert len(problems) <= 1
            name = key.rpartition(".")[2]
            reviewed = (value == 0 and name in ZERO_IS_A_CHOICE) or (value == -1 and name in NEGATIVE_IS_A_CHOICE)
            if not problems and not reviewed:
                unreviewed.append(f"{key}={value}")
    assert unreviewed == []


def test_zero_of_a_layer_is_no_choice() -> None:
    for name in ("hidden_size", "intermediate_size", "vocab_size", "num_layers", "num_heads"):
        assert list(check_ranges({f"lab.student.{name}": 0}))
    for key in ("spend.max_tokens", "teacher.max_tokens", "seeds.dedup_threshold", "teacher.max_rouge_l"):
        assert list(check_ranges({key: 0}))


def test_whole_configuration_with_odd_numbers_is_a_list_of_mistakes() -> None:
    # Judges of suites and of a panel are null unless one is chosen, and a number below null is another mistake.
    keys = [
        key
        for key in numbers()
        if key in SCHEMA.keys and not re.match(r"evals\.\w+\.judge\.|judge\.panel\.(second|third)\.", key)
    ]
    for value in ("9223372036854775808", "-1", "nan", "1e30"):
        whole = [key for key in keys if float in {SCHEMA.keys[key].hint, *get_args(SCHEMA.keys[key].hint)}]
        chosen = keys if value.lstrip("-").isdigit() else whole
        with pytest.raises(ConfigError) as caught:
            parse(compose_raw(*(f"{key}={value}" for key in chosen)))
        assert len(caught.value.problems) > len(chosen) - 10


def test_every_number_has_a_ceiling_and_a_remedy() -> None:
    assert CEILINGS[-1][0] == ("*",)
    (problem,) = check_ranges({"curriculum.rounds": 2**63})
    assert problem.expected == "a number of at most 1000"


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("trainer.accelerator", "gpus", "gpu"),
        ("trainer.precision", "bf16", "bf16-"),
        ("trainer.precision", "fp8", "32-true"),
    ],
)
def test_unknown_accelerator_or_precision_is_refused(key: str, value: str, hint: str) -> None:
    (problem,) = _check_lightning({key: value})
    assert hint in problem.expected
    assert not list(_check_lightning({"trainer.accelerator": "cpu", "trainer.precision": "bf16-mixed"}))
