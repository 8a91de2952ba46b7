"""Rows of one forward pass packed behind one another: no padding, and no row sees another.

The linear layers read all rows as one sequence; attention goes row by row, so that it costs what the rows alone cost.
"""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from tapir_exp.core.errors import TapirError

PACKED = "tapir_packed"
"""The name under which transformers knows `attend_within_rows`. It has no mask function there, so no mask is built."""


class RowBounds(NamedTuple):
    """Where packed rows begin and end.

    lengths: tokens of each row. starts: (rows + 1,) int32, where each begins, and the end. places: (tokens,), of each
    token in its row.
    """

    lengths: tuple[int, ...]
    starts: Tensor
    positions: Tensor


def row_bounds(lengths: Sequence[int]) -> RowBounds:
    """The bounds of rows of these lengths."""
    starts = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
    return RowBounds(tuple(lengths), starts, torch.cat([torch.arange(length) for length in lengths]))


def pack_attention(model: PreTrainedModel) -> PreTrainedModel:
    """Let the model attend within packed rows; returns it.

    Raises TapirError where its architecture does not go through transformers' attention interface.
    """
    try:
        model.set_attn_implementation(PACKED)
    except (ValueError, ImportError) as error:
        raise TapirError(f"{type(model).__name__} cannot read packed rows: {str(error).splitlines()[0]}") from error
    return model


def packed_hidden(decoder: torch.nn.Module, tokens: Tensor, bounds: RowBounds) -> Tensor:
    """The decoder's last hidden state of every token: (tokens,) ids of all rows to (tokens, width)."""
    output = decoder(input_ids=tokens[None], position_ids=bounds.positions[None], use_cache=False, row_bounds=bounds)
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def attend_within_rows(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_bounds: RowBounds,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row, as transformers' attention interface calls it.

    query: (1, heads, tokens, width); key, value: the same with as many or fewer heads. Returns (1, tokens, heads,
    width). Raises TapirError where a row is longer than the model's sliding window, which is not implemented.
    """
    if sliding_window is not None and max(row_bounds.lengths) > sliding_window:
        raise TapirError(
            f"The model attends within a window of {sliding_window} tokens, and a row has {max(row_bounds.lengths)}: "
            f"lower student.max_length to {sliding_window}."
        )
    query, key, value = (_cast_for_autocast(states) for states in (query, key, value))
    if _can_use_varlen(query) and not dropout:
        return _attend_varlen(query, key, value, row_bounds, scaling), None
    grouped = key.shape[1] != query.shape[1]
    rows = [torch.split(states, list(row_bounds.lengths), 2) for states in (query, key, value)]
    with sdpa_kernel(_sdpa_backends(query)):
        attended = [
            scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=grouped)
            for q, k, v in zip(*rows, strict=True)
        ]
    return torch.cat(attended, 2).transpose(1, 2), None


AttentionInterface.register(PACKED, attend_within_rows)


def _cast_for_autocast(states: Tensor) -> Tensor:
    """In autocast's type, if it is on: the rotated queries and keys are float32 there."""
    device = states.device.type
    return states.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else states


def _sdpa_backends(query: Tensor) -> list[SDPBackend]:
    if query.device.type == "cpu" and query.dtype is torch.bfloat16:
        return [SDPBackend.MATH]  # the fused kernel's backward pass takes half again as long there (torch 2.13)
    return [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def _can_use_varlen(query: Tensor) -> bool:
    """Whether torch's own attention over rows of various lengths takes these: on a GPU, in half precision."""
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and _varlen_attention() is not None


def _varlen_attention() -> Any:
    """torch.nn.attention.varlen_attn as torch has it since 2.11; None before."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None


def _attend_varlen(query: Tensor, key: Tensor, value: Tensor, bounds: RowBounds, scaling: float | None) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    flat = [states[0].transpose(0, 1) for states in (query, key, value)]
    key, value = (states.repeat_interleave(groups, 1) if groups > 1 else states for states in flat[1:])
    longest = max(bounds.lengths)
    attended: Tensor = _varlen_attention()(
        flat[0], key, value, bounds.starts, bounds.starts, longest, longest, scale=scaling, window_size=(-1, 0)
    )
    return attended[None]
