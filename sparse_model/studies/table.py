"""Markdown tables of two compared arms."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparse_model.studies.paired import paired_difference


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
