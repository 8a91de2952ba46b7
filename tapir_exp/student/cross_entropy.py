"""Cross-entropy over a vocabulary, some tokens at a time: the logits of all of them never exist at once.

The gradient is taken in the forward pass, chunk by chunk, so that the backward pass computes no logits again.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tapir_exp.student.constants import CHUNK_LOGITS


def weighted_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The weighted sum of the tokens' negative log-likelihoods, and these themselves without a gradient, in nats.

    hidden: (tokens, width), the states that predict. head: (vocabulary, width). targets: (tokens,) ids.
    weights: (tokens,), constants. Under autocast the logits are computed in its type, as a linear layer's would be;
    their softmax is float32 always.
    """
    loss, nll = _WeightedCrossEntropy.apply(hidden, head, targets, weights)  # type: ignore[no-untyped-call]
    return loss, nll


def token_nll(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """The negative log-likelihood of each target, without a gradient: shapes as in `weighted_cross_entropy`."""
    states, words = _cast_for_matmul(hidden, head)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        parts = [_nll(_logits(states[chunk], words), targets[chunk])[0] for chunk in _chunks(states, words)]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


class _WeightedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        states, words = _cast_for_matmul(hidden, head)
        nll = torch.zeros(len(states), dtype=torch.float32, device=hidden.device)
        to_hidden = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        to_head = torch.zeros(words.shape, dtype=torch.float32, device=head.device) if ctx.needs_input_grad[1] else None
        with torch.autocast(hidden.device.type, enabled=False):
            for chunk in _chunks(states, words):
                logits = _logits(states[chunk], words)
                nll[chunk], normaliser = _nll(logits, targets[chunk])
                if to_hidden is None and to_head is None:
                    continue
                gradient = _gradient(logits, normaliser, targets[chunk], weights[chunk]).to(words.dtype)
                if to_hidden is not None:
                    to_hidden[chunk] = gradient @ words
                if to_head is not None:
                    _add_product(to_head, gradient, states[chunk])
        ctx.save_for_backward(to_hidden, to_head)
        ctx.types = hidden.dtype, head.dtype
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        scaled = (
            None if saved is None else saved.mul_(gradients[0]).to(kind)
            for saved, kind in zip(ctx.saved_tensors, ctx.types, strict=True)
        )
        return next(scaled), next(scaled), None, None


def _cast_for_matmul(hidden: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the type in which a linear layer would multiply them."""
    device = hidden.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.dtype
    return hidden.detach().to(kind), head.detach().to(kind)


def _chunks(states: Tensor, words: Tensor) -> Iterator[slice]:
    size = max(1, CHUNK_LOGITS // len(words))
    for start in range(0, len(states), size):
        yield slice(start, start + size)


def _logits(states: Tensor, words: Tensor) -> Tensor:
    return (states @ words.T).float()


def _nll(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of each target, and the logarithm of the softmax's normaliser."""
    normaliser = logits.logsumexp(1)
    return normaliser - logits.gather(1, targets[:, None])[:, 0], normaliser


def _gradient(logits: Tensor, normaliser: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Of the weighted sum, in the place of the logits."""
    softmax = logits.sub_(normaliser[:, None]).exp_()
    rows = torch.arange(len(targets), device=targets.device) * softmax.shape[1]
    softmax.view(-1).index_add_(0, rows + targets, softmax.new_full((len(targets),), -1.0))
    return softmax.mul_(weights[:, None])


def _add_product(total: Tensor, gradient: Tensor, states: Tensor) -> None:
    """Add to the float32 gradient of the head."""
    if gradient.dtype is torch.float32:
        total.addmm_(gradient.T, states)
    else:
        total.add_(gradient.T @ states)
