"""NMSE and KL against their plain definitions."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from bridges.losses import kl_per_token, nmse


def test_nmse_is_squared_error_over_variance() -> None:
    prediction, target = torch.randn(3, 5, 7), 4 + 2 * torch.randn(3, 5, 7)
    flat, guess = target.reshape(15, 7).double(), prediction.reshape(15, 7).double()
    error = sum(((g - t) ** 2).sum() for g, t in zip(guess, flat, strict=True)) / 15
    spread = sum(((t - flat.mean(0)) ** 2).sum() for t in flat) / 15
    assert nmse(prediction, target).item() == pytest.approx((error / spread).item(), rel=1e-5)


def test_nmse_is_one_for_the_mean_and_nought_for_the_target() -> None:
    target = 4 + 2 * torch.randn(3, 5, 7)
    assert nmse(target.mean((0, 1)).expand_as(target), target).item() == pytest.approx(1)
    assert nmse(target, target).item() == 0


def test_a_target_cannot_lower_its_nmse_by_spreading_out() -> None:
    prediction, target = torch.randn(2, 4, 3), torch.randn(2, 4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(nmse(prediction, target), target)
    spread = (target - target.mean((0, 1))).square().sum(-1).mean().detach()
    torch.testing.assert_close(gradient, 2 * (target.detach() - prediction) / 8 / spread)


@given(st.integers(0, 100), st.floats(0.1, 8))
def test_kl_is_the_plain_sum_and_nought_only_for_equal_distributions(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    p, logits = (scale * torch.randn(2, 3, 11, generator=generator) for _ in range(2))
    target = F.log_softmax(p, -1)
    expected = F.kl_div(F.log_softmax(logits.double(), -1), target.double(), reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(kl_per_token(target, logits).double(), expected, atol=1e-5, rtol=1e-4)
    assert (kl_per_token(target, logits) > 0).all()
    torch.testing.assert_close(kl_per_token(target, p + 3), torch.zeros(2, 3), atol=1e-5, rtol=0)


def test_kl_of_half_precision_logits_is_computed_in_fp32() -> None:
    target, logits = F.log_softmax(torch.randn(4, 300), -1), torch.randn(4, 300).bfloat16()
    found = kl_per_token(target, logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, kl_per_token(target, logits.float()), atol=0, rtol=0)


def test_the_gradient_of_kl_is_that_of_its_definition_in_double_precision() -> None:
    target = F.log_softmax(torch.randn(2, 3, 7, dtype=torch.float64), -1)
    logits = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: kl_per_token(target, x), logits)
    weight = torch.randn(2, 3, dtype=torch.float64)
    (found,) = torch.autograd.grad((weight * kl_per_token(target, logits)).sum(), logits)
    plain = F.kl_div(F.log_softmax(logits, -1), target, reduction="none", log_target=True).sum(-1)
    (expected,) = torch.autograd.grad((weight * plain).sum(), logits)
    torch.testing.assert_close(found, expected)


def test_kl_keeps_the_logits_in_their_own_precision_and_nothing_else_of_their_size() -> None:
    target = F.log_softmax(torch.randn(4, 300), -1)
    logits = torch.randn(4, 300).bfloat16().requires_grad_()
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        loss = kl_per_token(target, logits).sum()
    assert sum(x.nbytes for x in kept) == target.nbytes + logits.nbytes
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16
