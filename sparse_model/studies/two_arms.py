"""Two arms compared: the paired difference over seeds with its interval, and Markdown tables of it."""

from collections.abc import Mapping, Sequence
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


def compare(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Paired difference of the two arms' cross-entropy, first − second, per text."""
    first, second = runs.values()
    return {
        text: paired_difference(
            [run["cross_entropy"][text] for run in first], [run["cross_entropy"][text] for run in second]
        )
        for text in first[0]["cross_entropy"]
    }


def comparison_table(runs: Mapping[str, Sequence[Mapping[str, Any]]], labels: Mapping[str, str]) -> str:
    """Cross-entropy of every run and the paired difference, one line per text (nats per token)."""
    arms, differences = list(runs), compare(runs)
    seeds = [run["seed"] for run in runs[arms[0]]]
    lines = [
        "| held-out text | " + " | ".join(f"{labels[arm]}, seeds {_join(seeds)}" for arm in arms) + " | difference |",
        "|---" * (len(arms) + 2) + "|",
    ]
    for text, found in differences.items():
        cells = [" ".join(f"{run['cross_entropy'][text]:.3f}" for run in runs[arm]) for arm in arms]
        interval = f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"
        lines.append("| " + " | ".join([text, *cells, interval]) + " |")
    return "\n".join(lines)


def _join(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
