"""FLOPs of a training step, compared with torch's counter, and MFU."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from tapir_exp.student.cross_entropy import weighted_cross_entropy
from tapir_exp.student.packing import pack_attention, packed_hidden, row_bounds
from tapir_exp.student.training.batching import StepBatch
from tapir_exp.student.training.throughput import ThroughputMeter, count_model_flops

LENGTHS = (40, 64)
SUPERVISED = 50
CPU = torch.device("cpu")


def make_model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config)


def counted_flops(model: torch.nn.Module, whole: LlamaForCausalLM) -> int:
    """Count with torch, without attention: torch counts masked positions too."""
    pack_attention(whole)
    with FlopCounterMode(display=False) as counter:
        hidden = packed_hidden(whole.get_decoder(), torch.randint(100, (sum(LENGTHS),)), row_bounds(LENGTHS))
        targets, weights = torch.randint(100, (SUPERVISED,)), torch.ones(SUPERVISED)
        weighted_cross_entropy(hidden[:SUPERVISED], whole.lm_head.weight, targets, weights)[0].backward()
    counts = counter.get_flop_counts()["Global"]
    # torch does not count the product that is added to the head's gradient in place.
    head = 2 * 100 * 64 * SUPERVISED
    return head + sum(
        count for operation, count in counts.items() if "mm" in str(operation) and "bmm" not in str(operation)
    )


def flops_without_attention(model: torch.nn.Module) -> float:
    flops = count_model_flops(model)
    return flops.of_step(LENGTHS, SUPERVISED) - 6 * flops.attention * sum(length**2 for length in LENGTHS)


def test_model_flops_match_the_counter_of_torch() -> None:
    model = make_model()
    assert flops_without_attention(model) == pytest.approx(counted_flops(model, model), rel=0.01)


def test_model_flops_frozen_weights_need_no_gradient() -> None:
    whole = make_model()
    adapted = get_peft_model(whole, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    # The inputs of the first layer need no gradient, but the formula counts one.
    assert flops_without_attention(adapted) == pytest.approx(counted_flops(adapted, whole), rel=0.1)
    assert flops_without_attention(adapted) < 0.8 * flops_without_attention(make_model())


def test_model_flops_attention_grows_with_squared_length() -> None:
    flops = count_model_flops(make_model())
    attention = flops.of_step([8], 0) - flops.of_step([4], 0) * 2
    assert attention == 6 * 2 * 64 * (8**2 - 2 * 4**2)


def test_throughput_meter_mfu_is_relative_to_the_peak() -> None:
    model = make_model()
    meter = ThroughputMeter(count_model_flops(model), CPU, 2, peak_tflops=1e-3)
    meter.record(1, StepBatch([], LENGTHS, SUPERVISED), 0.5)
    (timing,) = meter.timings
    assert timing.mfu == pytest.approx(count_model_flops(model).of_step(LENGTHS, SUPERVISED) / 0.5 / 2e9)
    assert (timing.tokens, timing.supervised, timing.seconds) == (104, 50, 0.5)
    assert timing.memory_mb > 50


def test_throughput_meter_unknown_device_has_no_mfu() -> None:
    meter = ThroughputMeter(count_model_flops(make_model()), CPU, 1, None)
    meter.record(1, StepBatch([], LENGTHS, SUPERVISED), 0.5)
    assert meter.timings[0].mfu is None
