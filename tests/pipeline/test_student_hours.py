"""Hours of a student's fits and generation follow from its size, its layers and its batches."""

from dataclasses import replace

import pytest

from tapir_exp.config import ArchitectureConfig, StudentConfig
from tapir_exp.pipeline.student_hours import fit_hours, generation_hours

LLAMA2_7B = ArchitectureConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=32,
)
LLAMA2_7B_PARAMETERS = 6_738_415_616
student = StudentConfig(model="m", architecture=LLAMA2_7B)


def test_hours_of_a_fit_are_its_flops_at_a_share_of_the_peak() -> None:
    hours = fit_hours(replace(student, num_parameters=1e9), 1e6)
    assert hours is not None
    assert hours.gpu == pytest.approx(6e15 / (312e12 * 0.4) / 3600)
    assert hours.core == pytest.approx(6e15 / 40e9 / 3600)


def test_generation_agrees_with_what_an_h200_measured() -> None:
    """14,761 tokens took 27.07 s with 32 rows at once (benchmarks/generate/gpu.py)."""
    hours = generation_hours(replace(student, generation_batch_size=32), 14_761)
    assert hours is not None
    assert 3600 * hours.gpu == pytest.approx(27.07, rel=0.1)


def test_generation_of_more_rows_at_once_takes_less_time_on_a_gpu_until_it_computes_at_its_peak() -> None:
    def gpu(rows: int) -> float:
        hours = generation_hours(replace(student, generation_batch_size=rows), 1e6)
        assert hours is not None
        return hours.gpu

    assert gpu(32) == pytest.approx(4 * gpu(128))
    assert gpu(10**6) == pytest.approx(2 * 6.738e9 * 1e6 / (312e12 * 0.4) / 3600, rel=1e-3)


def test_unknown_layers_are_those_of_a_7b_model() -> None:
    vague = StudentConfig(model="m", num_parameters=LLAMA2_7B_PARAMETERS)
    assert generation_hours(vague, 1e6) == generation_hours(student, 1e6)


def test_hours_of_an_unknown_size_are_unknown() -> None:
    vague = StudentConfig(model="m")
    assert fit_hours(vague, 1.0) is None
    assert generation_hours(vague, 1.0) is None
