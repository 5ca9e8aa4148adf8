"""Held-out cross-entropy of the arms of an experiment, one dot per seed, runs with equal seeds joined."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from bridges.reports.figures.canvas import BACKWARD, FAINT, FORWARD, INK, make_figure, quiet_grid, style


def arms_dots(runs: Mapping[str, Sequence[Mapping[str, Any]]], labels: Mapping[str, str]) -> Figure:
    """One panel per text.

    Args:
        runs: by arm, outcomes of `sparse_model.studies.arms.run_arm` in the same order of seeds.
        labels: what each of the two arms is called.
    """
    texts = list(next(iter(runs.values()))[0]["cross_entropy"])
    with style():
        figure = make_figure(2.3 * len(texts) + 0.6, 3.0)
        panels = figure.subplots(1, len(texts), squeeze=False)[0]
        for axes, text in zip(panels, texts, strict=True):
            columns = {arm: [run["cross_entropy"][text] for run in found] for arm, found in runs.items()}
            for pair in zip(*columns.values(), strict=True):
                axes.plot(range(len(columns)), pair, color=FAINT, linewidth=0.8)
            for place, (values, colour) in enumerate(zip(columns.values(), (FORWARD, BACKWARD), strict=False)):
                axes.plot([place] * len(values), values, "o", color=colour, markersize=5)
                mean = sum(values) / len(values)
                axes.plot([place - 0.16, place + 0.16], [mean, mean], color=INK, linewidth=1.4)
            axes.set_xticks(range(len(columns)), [labels[arm] for arm in columns])
            axes.set_xlim(-0.5, len(columns) - 0.5)
            axes.set_title(text)
            quiet_grid(axes)
        panels[0].set_ylabel("held-out cross-entropy (nats per token)")
        return figure
