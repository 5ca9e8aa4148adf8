"""Recovered against the number of nodes the edit may use: how concentrated the explanation is."""

from collections.abc import Mapping, Sequence

from matplotlib.ticker import NullLocator

from bridges.reports.figures.canvas import BACKWARD, FAINT, FORWARD, make_figure, quiet_grid, style, to_svg


def concentration_curve(curves: Mapping[str, Sequence[Mapping[str, float]]], name: str) -> str:
    """Curves by direction of points with `nodes`, `value`, `low`, `high`, as SVG."""
    with style():
        figure = make_figure(4.9, 3.3)
        axes = figure.subplots()
        ends = []
        for (label, points), colour, marker in zip(curves.items(), (FORWARD, BACKWARD), ("o", "s"), strict=False):
            nodes = [point["nodes"] for point in points]
            axes.fill_between(
                nodes, [p["low"] for p in points], [p["high"] for p in points], color=colour, alpha=0.15, linewidth=0
            )
            axes.plot(
                nodes,
                [p["value"] for p in points],
                color=colour,
                marker=marker,
                markersize=4.5,
                linewidth=1.6,
                label=label,
            )
            ends.append(
                f"{label} {points[0]['value']:.2f} with {nodes[0]:.0f} nodes to {points[-1]['value']:.2f} with "
                f"{nodes[-1]:.0f}"
            )
        axes.axhline(1, color=FAINT, linewidth=0.9, linestyle=(0, (6, 2)))
        axes.axhline(0, color=FAINT, linewidth=0.9)
        ticks = _apart(sorted({point["nodes"] for points in curves.values() for point in points}))
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("nodes in the edit, most-moved first (log scale)")
        axes.set_ylabel("recovered")
        quiet_grid(axes)
        axes.legend(loc="best")
        return to_svg(figure, name, f"Recovered against nodes: {'; '.join(ends)}.")


def _apart(ticks: Sequence[float]) -> list[float]:
    """The ticks whose labels do not touch on a log axis; the last one always stays."""
    kept: list[float] = []
    for tick in reversed(ticks):
        if not kept or kept[-1] / tick > (ticks[-1] / ticks[0]) ** 0.07:
            kept.append(tick)
    return kept[::-1]
