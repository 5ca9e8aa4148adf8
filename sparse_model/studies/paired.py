"""Paired comparison of two arms over seeds: mean difference with Student's 95 % interval over the seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95


def paired_difference(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Mean of first − second over runs with equal seeds.

    Returns:
        `value`, `low`, `high` (95 %, Student's t with n − 1 degrees of freedom) and the `differences` themselves.

    Raises:
        ValueError: the two differ in length, or there are fewer than two runs.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"{len(first)} and {len(second)} runs: a paired interval needs the same two or more seeds")
    differences = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    mean = float(differences.mean())
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(differences) - 1) * stats.sem(differences))
    return {"value": mean, "low": mean - half, "high": mean + half, "differences": differences.tolist()}
