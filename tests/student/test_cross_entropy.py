"""The chunked loss against torch's cross-entropy over all logits."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tapir_exp.student import cross_entropy
from tapir_exp.student.cross_entropy import token_nll, weighted_cross_entropy

TOKENS, WIDTH, VOCABULARY = 23, 16, 37


@pytest.fixture(params=[1, 5 * VOCABULARY, 2**25], ids=["one token", "five tokens", "all tokens"])
def _chunked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", request.param)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator).to(dtype).requires_grad_()
    head = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=generator)
    return hidden, head, targets, torch.rand(TOKENS, generator=generator)


def plain_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    nll = functional.cross_entropy(functional.linear(hidden, head).float(), targets, reduction="none")
    return (nll * weights).sum(), nll


@pytest.mark.usefixtures("_chunked")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_loss_and_gradients_equal_those_of_all_logits(dtype: torch.dtype, tolerance: float) -> None:
    actual, expected = inputs(dtype), inputs(dtype)
    (loss, nll), (plain_loss, plain_nll) = weighted_cross_entropy(*actual), plain_cross_entropy(*expected)
    (3 * loss).backward()
    (3 * plain_loss).backward()
    torch.testing.assert_close(loss, plain_loss, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(nll, plain_nll, atol=tolerance, rtol=tolerance)
    for one, other in zip(actual[:2], expected[:2], strict=True):
        assert one.grad is not None
        assert one.grad.dtype is dtype
        torch.testing.assert_close(one.grad, other.grad, atol=tolerance * 3, rtol=tolerance)
    torch.testing.assert_close(token_nll(*actual[:3]), plain_nll.detach(), atol=tolerance, rtol=tolerance)


def test_autocast_computes_logits_as_a_linear_layer_does() -> None:
    actual, expected = inputs(), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        (loss, _), (plain, _) = weighted_cross_entropy(*actual), plain_cross_entropy(*expected)
    loss.backward()
    plain.backward()
    torch.testing.assert_close(loss, plain, atol=1e-5, rtol=1e-5)
    for one, other in zip(actual[:2], expected[:2], strict=True):
        assert one.grad is not None
        assert one.grad.dtype is torch.float32
        torch.testing.assert_close(one.grad, other.grad, atol=2e-2, rtol=2e-2)


def test_frozen_head_or_body_gets_no_gradient() -> None:
    hidden, head, targets, weights = inputs()
    weighted_cross_entropy(hidden, head.detach(), targets, weights)[0].backward()
    assert hidden.grad is not None
    other = inputs()
    weighted_cross_entropy(other[0].detach(), other[1], targets, weights)[0].backward()
    assert other[1].grad is not None


def test_no_tokens_give_zero_loss_and_gradient() -> None:
    hidden, head, targets, weights = inputs()
    loss, nll = weighted_cross_entropy(hidden[:0], head, targets[:0], weights[:0])
    loss.backward()
    assert loss.item() == 0
    assert nll.shape == (0,)
    assert hidden.grad is not None
    assert not hidden.grad.any()
    assert token_nll(hidden[:0], head, targets[:0]).shape == (0,)


def test_largest_tensor_is_not_the_logits_of_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Record the size of every tensor that torch creates in both passes."""
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS", 4 * VOCABULARY)
    sizes: list[int] = []

    class RecordSizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in torch.utils._pytree.tree_leaves(out) if isinstance(t, Tensor))
            return out

    arguments = inputs()
    with RecordSizes():
        weighted_cross_entropy(*arguments)[0].backward()
    assert max(sizes) == max(TOKENS * WIDTH, VOCABULARY * WIDTH) > 4 * VOCABULARY
    sizes.clear()
    with RecordSizes():
        plain_cross_entropy(*inputs())[0].backward()
    assert max(sizes) == TOKENS * VOCABULARY


def test_loss_is_float32_under_default_dtype_bfloat16() -> None:
    """Lightning's precision bf16-true sets this default."""
    arguments = inputs(torch.bfloat16)
    plain = weighted_cross_entropy(*arguments)[1]
    torch.set_default_dtype(torch.bfloat16)
    try:
        nll = weighted_cross_entropy(*arguments)[1]
    finally:
        torch.set_default_dtype(torch.float32)
    assert nll.dtype is torch.float32
    assert torch.equal(nll, plain)
