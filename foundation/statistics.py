"""Intervals and p-values (METHOD §6): every figure is reported with what it could have been."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % bootstrap interval over the units it was averaged over (pairs, templates or sequences)."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """Plain types."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def mean_estimate(samples: NDArray[np.floating], seed: int = 0) -> Estimate:
    """Mean of independent samples [N] with its interval; a single sample has no spread to judge by."""
    return statistic_estimate((samples,), lambda x, axis=-1: np.mean(x, axis=axis), seed)


def ratio_estimate(numerator: NDArray[np.floating], denominator: NDArray[np.floating], seed: int = 0) -> Estimate:
    """Ratio of means of paired samples [N], resampled in pairs."""

    def ratio(top: NDArray[np.floating], bottom: NDArray[np.floating], axis: int = -1) -> NDArray[np.floating]:
        return np.asarray(np.mean(top, axis=axis) / np.mean(bottom, axis=axis))

    return statistic_estimate((numerator, denominator), ratio, seed)


def statistic_estimate(
    samples: tuple[NDArray[np.floating], ...], statistic: Callable[..., object], seed: int = 0
) -> Estimate:
    """A statistic of paired samples with its percentile bootstrap interval (scipy).

    Args:
        statistic: vectorised over a keyword `axis`.
    """
    samples = tuple(np.asarray(sample, dtype=np.float64) for sample in samples)
    value = float(np.asarray(statistic(*samples, axis=-1)))
    if len(samples[0]) < 2 or all(np.ptp(sample) == 0 for sample in samples):
        return Estimate(value, value, value)
    found = stats.bootstrap(
        samples, statistic, paired=len(samples) > 1, vectorized=True, n_resamples=RESAMPLES, confidence_level=LEVEL,
        method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    interval = found.confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def clustered_estimate(samples: NDArray[np.floating], clusters: Sequence[str], seed: int = 0) -> Estimate:
    """Mean of samples [N] that come in clusters (pairs of one template), with an interval that resamples whole clusters.

    What pairs of one template share does not average out over them. With a single cluster samples are resampled.
    """
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    sums, sizes = (np.bincount(member, weights=weights).astype(np.float64) for weights in (samples, None))
    return mean_estimate(samples, seed) if len(sizes) < 2 else ratio_estimate(sums, sizes, seed)


def permutation_p(observed: float, draws: NDArray[np.floating]) -> float:
    """One-sided p-value of `observed` among random draws: share of draws at least as large, counting itself."""
    return float((1 + np.count_nonzero(np.asarray(draws) >= observed)) / (1 + len(draws)))


def template_weights(clusters: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.floating]:
    """How often each of M samples counts: row 0 once each, the other rows after drawing whole clusters with replacement.

    A statistic that is a function of weighted sums is then computed for all rows at once (`from_resamples`). With a single
    cluster samples are drawn.
    """
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        names, member = np.arange(len(member)), np.arange(len(member))
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    return np.vstack([np.ones(len(member)), drawn[:, member].astype(np.float64)])


def from_resamples(values: NDArray[np.floating]) -> Estimate:
    """An estimate from a statistic [1 + resamples] whose first entry is the figure itself; undefined resamples are left out."""
    rest = values[1:][np.isfinite(values[1:])]
    value = float(values[0])
    if not len(rest):
        return Estimate(value, value, value)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(rest, [tail, 1 - tail])
    return Estimate(value, float(low), float(high))
