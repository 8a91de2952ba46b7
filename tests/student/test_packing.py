"""Packed rows against each row alone: no row attends to another."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tapir_exp.config import StudentConfig
from tapir_exp.core.errors import TapirError
from tapir_exp.core.records import Subset
from tapir_exp.student.loading import load_model
from tapir_exp.student.packing import RowBounds, pack_attention, packed_hidden, row_bounds
from tapir_exp.student.training.batching import collate
from tapir_exp.student.training.encoded_rows import EncodedRow

LENGTHS = (7, 1, 30, 12)
SHAPE = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}


def models() -> dict[str, PreTrainedModel]:
    """Build models; only learnt positions show if positions restart in each row, since rotary ones are relative."""
    torch.manual_seed(0)
    return {
        "llama": LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=4)),
        "grouped heads": LlamaForCausalLM(LlamaConfig(**SHAPE, num_key_value_heads=2)),
        "qwen": Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_key_value_heads=4)),
        "learnt positions": GPT2LMHeadModel(
            GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
        ),
    }


def rows() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(50, (length,), generator=generator) for length in LENGTHS]


def hidden_of(model: PreTrainedModel) -> Tensor:
    return packed_hidden(model.get_decoder(), torch.cat(rows()), row_bounds(LENGTHS))


@pytest.mark.parametrize("name", models())
def test_packed_logits_equal_those_of_each_row_alone(name: str) -> None:
    model = models()[name].eval()
    with torch.no_grad():
        alone = torch.cat([model(row[None]).logits[0] for row in rows()])
        packed = model.lm_head(hidden_of(pack_attention(model)))
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", models())
def test_packed_gradients_equal_those_of_each_row_alone(name: str) -> None:
    model = models()[name]
    sum(model(row[None]).logits.square().sum() for row in rows()).backward()
    alone = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.lm_head(hidden_of(pack_attention(model))).square().sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, alone[name], atol=1e-4, rtol=1e-4, msg=name)


def test_change_in_one_row_does_not_affect_another() -> None:
    model = pack_attention(models()["llama"].eval())
    before, after = rows(), rows()
    after[0] = (after[0] + 1) % 50
    with torch.no_grad():
        one, other = (packed_hidden(model.get_decoder(), torch.cat(r), row_bounds(LENGTHS)) for r in (before, after))
    assert torch.equal(one[LENGTHS[0] :], other[LENGTHS[0] :])
    assert not torch.allclose(one[: LENGTHS[0]], other[: LENGTHS[0]])


def test_joined_rows_give_other_logits() -> None:
    """The tests above would notice joined rows: the logits of one long row differ."""
    model = pack_attention(models()["llama"].eval())
    joined = RowBounds((sum(LENGTHS),), *row_bounds(LENGTHS)[1:])
    with torch.no_grad():
        packed, joined_hidden = hidden_of(model), packed_hidden(model.get_decoder(), torch.cat(rows()), joined)
    assert (packed - joined_hidden).abs().max() > 0.01


def test_autocast_attends_in_half_precision_and_agrees() -> None:
    model = pack_attention(models()["llama"].eval())
    with torch.no_grad():
        exact = hidden_of(model)
        with torch.autocast("cpu", torch.bfloat16):
            rough = hidden_of(model)
    torch.testing.assert_close(rough.float(), exact, atol=0.1, rtol=0.1)


def test_row_longer_than_the_sliding_window_is_an_error() -> None:
    window = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 0}
    model = pack_attention(Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_key_value_heads=4, **window)).eval())
    with pytest.raises(TapirError, match=r"Lower student\.max_length to 20"):
        hidden_of(model)


def test_single_row_equals_transformers(base: Path, student: StudentConfig) -> None:
    model = load_model(base, student)
    batch = collate([EncodedRow(tuple(range(10, 30)), 4, Subset.REST)])
    with torch.no_grad():
        plain = model(batch.tokens[None], output_hidden_states=True).hidden_states[-1][0]
        packed = packed_hidden(pack_attention(model).get_decoder(), batch.tokens, batch.bounds)
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=1e-5)
