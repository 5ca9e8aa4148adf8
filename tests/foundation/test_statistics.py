"""Intervals cover what they should, and p-values are uniform where nothing happens."""

import numpy as np
import pytest

from foundation.statistics import mean_estimate, permutation_p, ratio_estimate


def test_the_interval_of_a_mean_covers_it_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(150):
        estimate = mean_estimate(random.exponential(2.0, 60))
        hits += estimate.low <= 2.0 <= estimate.high
    assert 0.87 <= hits / 150 <= 0.99


def test_the_interval_is_as_wide_as_the_normal_one_for_many_samples() -> None:
    samples = np.random.default_rng(1).normal(5, 3, 2000)
    estimate = mean_estimate(samples)
    assert estimate.value == pytest.approx(samples.mean())
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * samples.std() / 2000**0.5, rel=0.1)


def test_a_ratio_of_means_is_resampled_in_pairs() -> None:
    """Numerator and denominator that move together leave the ratio certain, however much they vary."""
    denominator = np.random.default_rng(2).lognormal(0, 1, 80)
    together = ratio_estimate(0.7 * denominator, denominator)
    assert (together.value, together.low, together.high) == pytest.approx((0.7, 0.7, 0.7))
    apart = ratio_estimate(0.7 * denominator[::-1], denominator)
    assert apart.high - apart.low > 0.1


def test_a_ratio_is_of_means_and_not_a_mean_of_ratios() -> None:
    assert ratio_estimate(np.array([1.0, 0.0, 3.0]), np.array([1.0, 2.0, 1.0])).value == pytest.approx(1.0)


@pytest.mark.parametrize("samples", [[3.0], [2.0, 2.0, 2.0]])
def test_samples_without_spread_have_an_interval_of_no_width(samples: list[float]) -> None:
    estimate = mean_estimate(np.array(samples))
    assert estimate.low == estimate.high == estimate.value == samples[0]


def test_the_same_seed_gives_the_same_interval() -> None:
    samples = np.random.default_rng(3).normal(size=30)
    assert mean_estimate(samples, seed=1) == mean_estimate(samples, seed=1) != mean_estimate(samples, seed=2)


def test_a_p_value_counts_the_draws_at_least_as_large_and_itself() -> None:
    draws = np.arange(99.0)
    assert permutation_p(1000, draws) == pytest.approx(0.01)
    assert permutation_p(-1, draws) == 1
    assert permutation_p(98, draws) == pytest.approx(0.02)


def test_p_values_of_nothing_are_uniform() -> None:
    random = np.random.default_rng(4)
    found = np.array([permutation_p(random.normal(), random.normal(size=99)) for _ in range(2000)])
    for level in (0.05, 0.2, 0.5):
        assert (found <= level).mean() == pytest.approx(level, abs=0.035)
