"""Effects as shares of the model's own difference, and their intervals, on answers made by hand."""

import numpy as np
import pytest
import torch

from bridges.validation.contrast import Answers, Contrast, Streams
from bridges.validation.effects import Shares
from foundation.statistics import from_resamples, permutation_p, template_weights


def answers(*differences: float) -> Answers:
    return Answers(torch.tensor(differences).double(), torch.zeros(len(differences)).double())


def streams(none: Answers, full: Answers, templates: tuple[str, ...]) -> Streams:
    """A model of which nothing but its answers is known."""
    found = object.__new__(Streams)
    tokens = torch.zeros(len(templates), 2, dtype=torch.long)
    ones = torch.ones(len(templates), dtype=torch.long)
    found.none, found.full, found.contrast = none, full, Contrast(tokens, tokens, ones, ones, ones, templates)
    return found


def test_an_effect_is_a_ratio_of_sums_one_for_the_counterfactual_and_zero_for_nothing() -> None:
    none, full = answers(-4.0, -2.0), answers(4.0, 0.0)
    shares = Shares(streams(none, full, ("x", "y")))
    assert shares.estimate(full).value == 1.0
    assert shares.estimate(none).value == 0.0
    assert shares.estimate(answers(0.0, -1.0)).value == pytest.approx((4 + 1) / (8 + 2))
    assert shares.estimate(answers(8.0, 1.0)).value == pytest.approx(1.5)  # overshoot shows
    assert shares.estimate(answers(-8.0, -3.0)).value == pytest.approx(-0.5)  # so does the wrong way


def test_one_direction_counts_its_own_prompts_alone() -> None:
    shares = Shares(streams(answers(-1.0, -1.0), answers(1.0, 1.0), ("x", "y")), slice(1, None))
    assert shares.estimate(answers(9.0, 0.0)).value == pytest.approx(0.5)
    assert shares.mean(torch.tensor([5.0, 2.0])).value == 2.0


def test_intervals_resample_templates_not_prompts() -> None:
    """Many prompts of two templates that disagree leave the mean as uncertain as two."""
    none, full = answers(*[-1.0] * 40), answers(*[1.0] * 40)
    edit = answers(*[-1.0] * 20, *[1.0] * 20)
    clustered = Shares(streams(none, full, ("x",) * 20 + ("y",) * 20)).estimate(edit)
    single = Shares(streams(none, full, tuple(str(i) for i in range(40)))).estimate(edit)
    assert (clustered.low, clustered.high) == (0.0, 1.0)
    assert 0.3 < single.low < single.high < 0.7


def test_weights_count_every_sample_once_and_then_whole_templates() -> None:
    weights = template_weights(["a", "a", "b", "c"], resamples=50)
    assert weights[0].tolist() == [1, 1, 1, 1]
    np.testing.assert_array_equal(weights[:, 0], weights[:, 1])
    np.testing.assert_array_equal(weights[1:, [0, 2, 3]].sum(1), np.full(50, 3))
    assert len(np.unique(template_weights(["a"] * 4, 50)[1:], axis=0)) > 5  # a single template: its samples are drawn


def test_undefined_resamples_are_left_out_of_an_interval() -> None:
    found = from_resamples(np.array([0.5, np.nan, 0.25, 0.75]))
    assert found.value == 0.5
    assert 0.25 <= found.low < found.high <= 0.75


def test_the_best_of_n_draws_has_p_one_over_n_plus_one_and_ties_count_against_it() -> None:
    draws = np.arange(99.0)
    assert permutation_p(1000.0, draws) == pytest.approx(1 / 100)
    assert permutation_p(98.0, draws) == pytest.approx(2 / 100)
    assert permutation_p(-1.0, draws) == 1.0
