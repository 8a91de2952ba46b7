"""Padding-free packing: the rows of a forward pass follow one another, and no row attends to another.

The linear layers read all rows as one sequence. Attention runs within each row, so its cost is that of the rows alone.
"""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from tapir_exp.core.errors import TapirError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PACKED = "tapir_packed"
"""Name of `attend_within_rows` in transformers' attention interface. No mask function has this name, so transformers
builds no mask."""


class RowBounds(NamedTuple):
    """The bounds of packed rows.

    Attributes:
        lengths: Tokens of each row.
        starts: (rows + 1,), int32. Index of the first token of each row, and the total; other libraries call it
            `cu_seqlens`.
        positions: (tokens,). Position of each token within its row.
    """

    lengths: tuple[int, ...]
    starts: Tensor
    positions: Tensor


def row_bounds(lengths: Sequence[int]) -> RowBounds:
    """Return the bounds of rows of these lengths."""
    starts = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
    return RowBounds(tuple(lengths), starts, torch.cat([torch.arange(length) for length in lengths]))


def pack_attention(model: "PreTrainedModel") -> "PreTrainedModel":
    """Make the model attend within packed rows, and return it.

    Raises:
        TapirError: The model's architecture does not use transformers' attention interface.
    """
    # Imported here: it loads the classes of models, which takes seconds, and batches are formed without a model, too.
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, attend_within_rows)
    try:
        model.set_attn_implementation(PACKED)
    except (ValueError, ImportError) as error:
        raise TapirError(f"{type(model).__name__} cannot read packed rows: {str(error).splitlines()[0]}") from error
    return model


def packed_hidden(decoder: torch.nn.Module, tokens: Tensor, bounds: RowBounds) -> Tensor:
    """Return the decoder's last hidden state of every token, (tokens, width).

    Args:
        decoder: The decoder of a model that `pack_attention` has prepared.
        tokens: (tokens,), ids of all rows one after another.
        bounds: Bounds of the rows.
    """
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
    """Compute causal attention within each row, with the signature of transformers' attention interface.

    Args:
        module: The attention layer; unused.
        query: (1, heads, tokens, head width).
        key: As `query`, with as many or fewer heads.
        value: As `key`.
        attention_mask: Always None for this attention; unused.
        row_bounds: Bounds of the rows.
        scaling: Factor of the scores; None for 1 / sqrt(head width).
        dropout: Probability of dropping a weight.
        sliding_window: The model's window in tokens, or None.

    Returns:
        The attended values, (1, tokens, heads, head width), and no weights.

    Raises:
        TapirError: A row is longer than the model's sliding window, which is not implemented.
    """
    if sliding_window is not None and max(row_bounds.lengths) > sliding_window:
        raise TapirError(
            f"The model attends within a window of {sliding_window} tokens, but a row has {max(row_bounds.lengths)}. "
            f"Lower student.max_length to {sliding_window}."
        )
    query, key, value = (_cast_for_autocast(states) for states in (query, key, value))
    if _can_use_varlen(query) and not dropout:
        return _attend_varlen(query, key, value, row_bounds, scaling), None
    # Without torch's kernel for rows of various lengths, each row takes a separate call.
    grouped = key.shape[1] != query.shape[1]
    rows = [torch.split(states, list(row_bounds.lengths), 2) for states in (query, key, value)]
    with sdpa_kernel(_sdpa_backends(query)):
        attended = [
            scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=grouped)
            for q, k, v in zip(*rows, strict=True)
        ]
    return torch.cat(attended, 2).transpose(1, 2), None


def _cast_for_autocast(states: Tensor) -> Tensor:
    """Cast to autocast's type if autocast is on, since rotary embeddings return float32 queries and keys there."""
    device = states.device.type
    return states.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else states


def _sdpa_backends(query: Tensor) -> list[SDPBackend]:
    if query.device.type == "cpu" and query.dtype is torch.bfloat16:
        # The backward pass of the fused kernel takes 1.5 times as long there (torch 2.13).
        return [SDPBackend.MATH]
    return [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def _can_use_varlen(query: Tensor) -> bool:
    """Return True if torch's attention over rows of various lengths supports these: on a GPU, in half precision."""
    return query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and _varlen_attention() is not None


def _varlen_attention() -> Any:
    """Return `torch.nn.attention.varlen_attn` with the signature of torch 2.11 and later; None before."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in inspect.signature(varlen_attn).parameters else None


def _attend_varlen(query: Tensor, key: Tensor, value: Tensor, bounds: RowBounds, scaling: float | None) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    flat = [states[0].transpose(0, 1) for states in (query, key, value)]  # (tokens, heads, head width)
    key, value = (states.repeat_interleave(groups, 1) if groups > 1 else states for states in flat[1:])
    longest = max(bounds.lengths)
    attended: Tensor = _varlen_attention()(
        flat[0], key, value, bounds.starts, bounds.starts, longest, longest, scale=scaling, window_size=(-1, 0)
    )
    return attended[None]
