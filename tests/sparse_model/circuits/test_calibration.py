"""Calibration is at its minimum, forgives a logit scale and a shift, and neither turns answers around nor runs away."""

import math

import pytest
import torch
import torch.nn.functional as F

from sparse_model.circuits.calibration import RIDGE, Calibration, answer_signs, fit, fitted


def differences(k: int = 3, m: int = 40, lean: float = 1.0) -> torch.Tensor:
    """Right minus wrong logits of k candidates, mostly right, with a preference for answer b."""
    noise = torch.randn(k, m, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return 0.3 * (noise + lean) - 0.2 * answer_signs(noise)


def test_scale_and_shift_are_where_the_loss_with_its_ridge_is_least() -> None:
    found = differences()
    scale, shift = fit(found)

    def cost(scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        margin = scale[:, None] * found + shift[:, None] * answer_signs(found)
        size = found.square().mean(1).sqrt()
        return F.softplus(-margin).mean(1) + RIDGE / 2 * ((scale * size).square() + shift.square())

    least = cost(scale, shift)
    for step in (-0.02, 0.02):
        assert bool((cost(scale + step, shift) > least).all())
        assert bool((cost(scale, shift + step) > least).all())
    assert bool((shift > 0).all())  # against the preference for b


def test_candidates_fitted_together_are_those_fitted_alone() -> None:
    found = differences()
    for i, (scale, shift) in enumerate(zip(*fit(found), strict=True)):
        alone = fitted(found[i])
        assert (alone.scale, alone.shift) == pytest.approx((float(scale), float(shift)), rel=1e-5)


def test_the_calibrated_loss_does_not_depend_on_the_size_of_the_logits() -> None:
    found = differences(1)[0]
    losses = [float(fitted(size * found).loss(size * found)) for size in (1e-3, 1.0, 50.0)]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
    assert losses[0] < float(Calibration().loss(found))


def test_separable_answers_keep_a_finite_scale_and_wrong_ones_stay_at_chance() -> None:
    right = differences(lean=10.0)[0].abs()
    found = fitted(right)
    assert float(found.loss(right)) < 0.02
    assert 4 < found.scale * float(right.square().mean().sqrt()) < 8
    turned = fitted(-right)
    assert turned.scale == 0
    assert float(turned.loss(-right)) == pytest.approx(math.log(2), abs=1e-6)
    nothing = fitted(torch.zeros(8))
    assert (nothing.shift, float(nothing.loss(torch.zeros(8)))) == pytest.approx((0, math.log(2)))


def test_a_shift_moves_both_kinds_of_prompts_against_each_other() -> None:
    margin = Calibration(2.0, 0.5).margin(torch.tensor([1.0, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(margin, torch.tensor([2.5, 2.5, 1.5, 1.5]))


def test_a_bound_on_the_scale_holds_and_is_the_best_scale_below_it() -> None:
    faint = torch.full((20,), 0.1) + 0.02 * torch.arange(20.0).sin()  # separable: the free scale is large
    free = fitted(faint)
    bounded = fitted(faint, max_scale=3.0)
    assert free.scale > 10
    assert bounded.scale == pytest.approx(3.0)
    losses = [Calibration(scale, bounded.shift).loss(faint) for scale in (1.0, 2.0, 3.0)]
    assert losses == sorted(losses, reverse=True)
    loud = 50 * faint
    assert fitted(loud, max_scale=3.0).scale == pytest.approx(fitted(loud).scale), (
        "a bound that is not met changes nothing"
    )
