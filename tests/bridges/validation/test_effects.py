"""Effects and recovered on logits made by hand."""

import math

import numpy as np
import pytest
import torch

from bridges.edits.paired import Direction
from bridges.validation.effects import Effect, recovered, summary
from foundation.statistics import permutation_p


@pytest.fixture
def direction() -> Direction:
    tokens = torch.zeros(2, 3, dtype=torch.long)
    return Direction(tokens, tokens, torch.tensor([2, 2]), torch.tensor([0, 1]), torch.tensor([1, 2]))


def test_an_effect_is_target_minus_original_and_the_targets_probability(direction: Direction) -> None:
    found = Effect.of(torch.tensor([[1.0, 3.0, 0.0], [0.0, 5.0, 4.0]]), direction)
    assert found.logit_difference.tolist() == [2.0, -1.0]
    expected = [math.exp(3) / (math.e + math.exp(3) + 1), math.exp(4) / (1 + math.exp(5) + math.exp(4))]
    np.testing.assert_allclose(found.p_target, expected, rtol=1e-9)
    assert found.flips == 0.5
    figures = summary(found)
    assert figures["logit_difference"]["value"] == 0.5
    assert figures["p_target"]["value"] == pytest.approx(np.mean(expected))


def test_recovered_is_a_ratio_of_means_one_for_the_patch_and_zero_for_nothing() -> None:
    def effect(*differences: float) -> Effect:
        return Effect(np.array(differences), np.zeros(len(differences)))

    none, full = effect(-4.0, -2.0), effect(4.0, 0.0)
    assert recovered(full, none, full).value == 1.0
    assert recovered(none, none, full).value == 0.0
    assert recovered(effect(0.0, -1.0), none, full).value == pytest.approx((4 + 1) / (8 + 2))
    assert recovered(effect(8.0, 1.0), none, full).value == pytest.approx(1.5)  # overshoot shows
    assert recovered(effect(-8.0, -3.0), none, full).value == pytest.approx(-0.5)  # so does the wrong way


def test_the_best_of_n_draws_has_p_one_over_n_plus_one_and_ties_count_against_it() -> None:
    draws = np.arange(99.0)
    assert permutation_p(1000.0, draws) == pytest.approx(1 / 100)
    assert permutation_p(98.0, draws) == pytest.approx(2 / 100)
    assert permutation_p(-1.0, draws) == 1.0
