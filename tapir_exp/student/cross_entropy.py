"""Cross-entropy over a vocabulary in chunks of tokens, so that the logits of all tokens never exist at once.

The forward pass computes the gradient chunk by chunk, so the backward pass computes no logits again.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tapir_exp.student.constants import CHUNK_LOGITS


def weighted_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of the tokens' negative log-likelihoods, and each token's own, in nats.

    Under autocast the logits have the type that a linear layer would give them; the softmax is always float32.

    Args:
        hidden: (tokens, width), the hidden states that predict the targets.
        head: (vocabulary, width), weights of the output layer.
        targets: (tokens,), token ids.
        weights: (tokens,), constants.

    Returns:
        The sum, a scalar with a gradient, and the negative log-likelihoods, (tokens,), without one.
    """
    loss, nll = _WeightedCrossEntropy.apply(hidden, head, targets, weights)  # type: ignore[no-untyped-call]
    return loss, nll


def token_nll(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Return the negative log-likelihood of each target without a gradient, (tokens,), in nats.

    Args:
        hidden: (tokens, width), the hidden states that predict the targets.
        head: (vocabulary, width), weights of the output layer.
        targets: (tokens,), token ids.
    """
    hidden, head = _cast_for_matmul(hidden, head)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        parts = [_nll(_logits(hidden[chunk], head), targets[chunk])[0] for chunk in _chunks(hidden, head)]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


class _WeightedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        states, matrix = _cast_for_matmul(hidden, head)
        nll = torch.zeros(len(states), dtype=torch.float32, device=hidden.device)
        hidden_grad = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        head_grad = (
            torch.zeros(matrix.shape, dtype=torch.float32, device=head.device) if ctx.needs_input_grad[1] else None
        )
        # Autocast is off, since all operands already have the types that they need.
        with torch.autocast(hidden.device.type, enabled=False):
            for chunk in _chunks(states, matrix):
                logits = _logits(states[chunk], matrix)  # (chunk, vocabulary)
                nll[chunk], normaliser = _nll(logits, targets[chunk])
                if hidden_grad is None and head_grad is None:
                    continue
                gradient = _logits_grad_(logits, normaliser, targets[chunk], weights[chunk]).to(matrix.dtype)
                if hidden_grad is not None:
                    hidden_grad[chunk] = gradient @ matrix
                if head_grad is not None:
                    _add_product_(head_grad, gradient, states[chunk])
        ctx.save_for_backward(hidden_grad, head_grad)
        ctx.types = hidden.dtype, head.dtype
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        # The loss is a scalar, so its gradient only scales what the forward pass computed.
        scaled = (
            None if saved is None else saved.mul_(gradients[0]).to(dtype)
            for saved, dtype in zip(ctx.saved_tensors, ctx.types, strict=True)
        )
        return next(scaled), next(scaled), None, None


def _cast_for_matmul(hidden: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """Return both, detached, in the type in which a linear layer would multiply them."""
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else head.dtype
    return hidden.detach().to(dtype), head.detach().to(dtype)


def _chunks(hidden: Tensor, head: Tensor) -> Iterator[slice]:
    """Yield slices of the tokens with at most `CHUNK_LOGITS` logits each, or with one token."""
    size = max(1, CHUNK_LOGITS // len(head))
    for start in range(0, len(hidden), size):
        yield slice(start, start + size)


def _logits(hidden: Tensor, head: Tensor) -> Tensor:
    return (hidden @ head.T).float()


def _nll(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the negative log-likelihood of each target, and the logarithm of each softmax normaliser: (tokens,)."""
    normaliser = logits.logsumexp(1)
    return normaliser - logits.gather(1, targets[:, None])[:, 0], normaliser


def _logits_grad_(logits: Tensor, normaliser: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Overwrite the logits with the gradient of the weighted sum, (softmax - one-hot) * weight, and return it."""
    softmax = logits.sub_(normaliser[:, None]).exp_()
    rows = torch.arange(len(targets), device=targets.device) * softmax.shape[1]
    softmax.view(-1).index_add_(0, rows + targets, softmax.new_full((len(targets),), -1.0))
    return softmax.mul_(weights[:, None])


def _add_product_(head_grad: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """Add a chunk's part, gradient.T @ hidden, to the float32 gradient of the head."""
    if gradient.dtype is torch.float32:
        head_grad.addmm_(gradient.T, hidden)
    else:
        head_grad.add_(gradient.T @ hidden)
