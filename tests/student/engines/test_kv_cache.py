"""The growing cache layer against transformers' own."""

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from tapir_exp.student.engines import kv_cache
from tapir_exp.student.engines.kv_cache import GrowingLayer


def test_growing_layer_equals_dynamic_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_cache, "GROWTH", 2)  # so that single tokens make it grow
    growing, dynamic = GrowingLayer(), DynamicLayer()  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(0)
    for step, selected in enumerate([None, None, [3, 1, 2], None, [0, 2], None]):
        rows = 4 if step <= 2 else 3 if step <= 4 else 2
        keys, values = torch.randn(2, rows, 2, 5 if step == 0 else 1, 8, generator=generator)
        for one, other in zip(growing.update(keys, values), dynamic.update(keys, values), strict=True):
            assert torch.equal(one, other)
        if selected is not None:
            growing.batch_select_indices(torch.tensor(selected))
            dynamic.batch_select_indices(torch.tensor(selected))  # type: ignore[no-untyped-call]
            assert torch.equal(growing.keys, dynamic.keys)
            assert torch.equal(growing.values, dynamic.values)
    assert growing.get_seq_length() == dynamic.get_seq_length() == 10
