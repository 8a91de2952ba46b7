"""The multiplications of a training step against torch's own counter, and what is made of them."""

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


def a_model() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    )
    return LlamaForCausalLM(config)


def counted(model: torch.nn.Module, whole: LlamaForCausalLM) -> int:
    """By torch, of the linear layers and the head: attention is left out, for torch counts masked places too."""
    pack_attention(whole)
    with FlopCounterMode(display=False) as counter:
        hidden = packed_hidden(whole.get_decoder(), torch.randint(100, (sum(LENGTHS),)), row_bounds(LENGTHS))
        targets, weights = torch.randint(100, (SUPERVISED,)), torch.ones(SUPERVISED)
        weighted_cross_entropy(hidden[:SUPERVISED], whole.lm_head.weight, targets, weights)[0].backward()
    kinds = counter.get_flop_counts()["Global"]
    head = (
        2 * 100 * 64 * SUPERVISED
    )  # the product that is added to the head's gradient in place, which torch leaves out
    return head + sum(count for kind, count in kinds.items() if "mm" in str(kind) and "bmm" not in str(kind))


def without_attention(model: torch.nn.Module) -> float:
    work = count_model_flops(model)
    return work.flops(LENGTHS, SUPERVISED) - 6 * work.attention * sum(length**2 for length in LENGTHS)


def test_work_is_what_torch_counts() -> None:
    model = a_model()
    assert without_attention(model) == pytest.approx(counted(model, model), rel=0.01)


def test_work_of_an_adapter_leaves_out_frozen_weights_gradients() -> None:
    whole = a_model()
    adapted = get_peft_model(whole, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    # The first layer's inputs need no gradient, which the formula does not know: it counts a little more.
    assert without_attention(adapted) == pytest.approx(counted(adapted, whole), rel=0.1)
    assert without_attention(adapted) < 0.8 * without_attention(a_model())


def test_attention_counts_what_comes_before() -> None:
    work = count_model_flops(a_model())
    alone = work.flops([8], 0) - work.flops([4], 0) * 2
    assert alone == 6 * 2 * 64 * (8**2 - 2 * 4**2)


def test_mfu_is_the_share_of_the_devices_peak() -> None:
    model = a_model()
    meter = ThroughputMeter(count_model_flops(model), CPU, 2, peak_tflops=1e-3)
    meter.measure(1, StepBatch([], LENGTHS, SUPERVISED), 0.5)
    (pace,) = meter.paces
    assert pace.mfu == pytest.approx(count_model_flops(model).flops(LENGTHS, SUPERVISED) / 0.5 / 2e9)
    assert (pace.tokens, pace.supervised, pace.seconds) == (104, 50, 0.5)
    assert pace.memory_mb > 50


def test_an_unknown_device_has_no_mfu() -> None:
    meter = ThroughputMeter(count_model_flops(a_model()), CPU, 1, None)
    meter.measure(1, StepBatch([], LENGTHS, SUPERVISED), 0.5)
    assert meter.paces[0].mfu is None
