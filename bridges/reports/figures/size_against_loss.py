"""Loss against circuit size, one point per model of a density–width sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from bridges.reports.figures.canvas import BACKWARD, FORWARD, make_figure, quiet_grid, style

COLOURS = {"fixed nonzeros": FORWARD, "fixed width": BACKWARD}


def size_against_loss(sweep: Mapping[str, Any]) -> Figure:
    """Draw `sparse_model.studies.sweep.run_sweep`'s result: x circuit edges (log), y held-out cross-entropy."""
    points = [point for point in sweep["points"] if point["circuit_size"] is not None]
    with style():
        figure = make_figure(5.6, 3.9)
        axes = figure.subplots()
        for series in dict.fromkeys(point["series"] for point in points):
            found = [point for point in points if point["series"] == series]
            _series(axes, series, found)
        axes.set_xscale("log")
        for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            which(LogFormatter(minor_thresholds=(2, 0.6)))
        axes.margins(x=0.2, y=0.15)
        axes.set_xlabel(
            f"circuit edges, geometric mean over {len(sweep['tasks'])} tasks at loss {sweep['target_loss']:g}"
        )
        axes.set_ylabel("held-out cross-entropy (nats per token)")
        if points:
            axes.legend(loc="best")
        quiet_grid(axes)
        return figure


def _series(axes: Any, series: str, points: Sequence[Mapping[str, Any]]) -> None:
    sizes = [point["circuit_size"] for point in points]
    losses = [point["cross_entropy"]["mixture"] for point in points]
    axes.plot(sizes, losses, "o-", color=COLOURS[series], linewidth=1.2, markersize=6, label=series)
    named = sorted(zip(sizes, losses, points, strict=True), key=lambda found: found[0])
    for number, (size, loss, point) in enumerate(named):
        side = -15 if number % 2 else 8  # above and below in turn, so that neighbours do not cover each other
        label = f"S={point['width']}, {point['density']:.1%}"
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}
        place = {"xytext": (0, side), "textcoords": "offset points", "ha": "center"}
        axes.annotate(label, (size, loss), fontsize=8.5, bbox=paper, **place)
