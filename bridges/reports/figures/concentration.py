"""Effect against the number of channels the edit may use: how concentrated the explanation is."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.ticker import NullLocator

from bridges.reports.figures.canvas import FAINT, FORWARD, make_figure, quiet_grid, style, to_svg


def concentration_curve(points: Sequence[Mapping[str, float]], bound: float | None, name: str) -> str:
    """Points with `channels`, `value`, `low`, `high`, as SVG.

    Args:
        bound: effect of the dense patch at the place; a dashed line.
    """
    with style():
        figure = make_figure(4.9, 3.0)
        axes = figure.subplots()
        channels = [point["channels"] for point in points]
        low, high = ([point[side] for point in points] for side in ("low", "high"))
        axes.fill_between(channels, low, high, color=FORWARD, alpha=0.15, linewidth=0)
        axes.plot(channels, [p["value"] for p in points], color=FORWARD, marker="o", markersize=4.5, linewidth=1.6)
        axes.axhline(0, color=FAINT, linewidth=0.8)
        if bound is not None:
            axes.axhline(bound, color=FAINT, linewidth=0.9, linestyle=(0, (6, 2)))
            axes.annotate("dense patch", (1, bound), (0, 3), xycoords=("axes fraction", "data"),
                          textcoords="offset points", fontsize=8.5, color=FAINT, ha="right")  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(channels, _labels(channels))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("channels the edit may use, most moved first")
        axes.set_ylabel("effect")
        quiet_grid(axes)
        first, last = points[0], points[-1]
        return to_svg(
            figure,
            name,
            f"Effect from {first['value']:.2f} with {first['channels']:.0f} channel to {last['value']:.2f} with "
            f"{last['channels']:.0f}.",
        )


def _labels(channels: Sequence[float]) -> list[str]:
    """Numbers under the ticks; one too near to the last gives way to it."""
    last = channels[-1]
    near = 0.05 * math.log2(last) if last > 1 else 0.0
    return [f"{n:.0f}" if n == last or math.log2(last / n) > near else "" for n in channels]
