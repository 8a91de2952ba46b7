"""A key-value cache with spare room, so that a new token rarely copies it."""

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

GROWTH = 64
"""Token positions by which the cache grows."""


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A cache layer that grows by `GROWTH` positions; copying it for every token would be half of the work."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values, (rows, heads, tokens, head width), and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._key_buffer, self._value_buffer = key_states[:, :, :0], value_states[:, :, :0]
        start, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[2]
        if end > self._key_buffer.shape[2]:
            self._key_buffer = _grown(self._key_buffer, end + GROWTH)
            self._value_buffer = _grown(self._value_buffer, end + GROWTH)
        self._key_buffer[:, :, start:end], self._value_buffer[:, :, start:end] = key_states, value_states
        # These are views of the buffers, so appending a token copies only that token.
        self.keys, self.values = self._key_buffer[:, :, :end], self._value_buffer[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the rows of these indices; only rows that change their index are copied."""
        rows = torch.arange(len(indices), device=indices.device)
        moved, end = rows[indices != rows], self.get_seq_length()
        for states in (self._key_buffer[:, :, :end], self._value_buffer[:, :, :end]):
            # index_select copies the moved rows first, so overwriting rows is safe.
            states.index_copy_(0, moved, states.index_select(0, indices[moved]))
        self._key_buffer, self._value_buffer = self._key_buffer[: len(indices)], self._value_buffer[: len(indices)]
        self.keys, self.values = self._key_buffer[:, :, :end], self._value_buffer[:, :, :end]


def _grown(states: Tensor, length: int) -> Tensor:
    """Return a copy of (rows, heads, tokens, head width) with `length` token positions, the new ones zero."""
    rows, heads, used, width = states.shape
    buffer = states.new_zeros(rows, heads, length, width)
    buffer[:, :, :used] = states
    return buffer
