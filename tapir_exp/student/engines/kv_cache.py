"""A key-value cache that has room to grow."""

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

GROWTH = 64
"""Token positions by which it grows."""


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A cache layer that grows by `GROWTH` positions; copying all of it for every token would be half of the work."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append (rows, heads, tokens, width) keys and values; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._roomy_keys, self._roomy_values = key_states[:, :, :0], value_states[:, :, :0]
        start, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[2]
        if end > self._roomy_keys.shape[2]:
            self._roomy_keys = _grown(self._roomy_keys, end + GROWTH)
            self._roomy_values = _grown(self._roomy_values, end + GROWTH)
        self._roomy_keys[:, :, start:end], self._roomy_values[:, :, start:end] = key_states, value_states
        self.keys, self.values = self._roomy_keys[:, :, :end], self._roomy_values[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows; only rows that change their place are copied."""
        rows = torch.arange(len(indices), device=indices.device)
        places, end = rows[indices != rows], self.get_seq_length()
        for states in (self._roomy_keys[:, :, :end], self._roomy_values[:, :, :end]):
            states.index_copy_(0, places, states.index_select(0, indices[places]))
        self._roomy_keys, self._roomy_values = self._roomy_keys[: len(indices)], self._roomy_values[: len(indices)]
        self.keys, self.values = self._roomy_keys[:, :, :end], self._roomy_values[:, :, :end]


def _grown(states: Tensor, length: int) -> Tensor:
    rows, heads, used, width = states.shape
    roomy = states.new_zeros(rows, heads, length, width)
    roomy[:, :, :used] = states
    return roomy
