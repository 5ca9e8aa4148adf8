"""Specificity: the circuit's effect as a line, beside a histogram of the matched node sets' outside it."""

from collections.abc import Mapping, Sequence

from matplotlib.ticker import MaxNLocator

from bridges.reports.figures.canvas import BACKWARD, FORWARD, INK, make_figure, quiet_grid, style, to_svg

BINS = 24


def specificity_strip(circuit: Mapping[str, float], outside: Sequence[float], name: str) -> str:
    """The circuit's estimate and the effects of the sets outside it, as SVG."""
    with style():
        figure = make_figure(5.6, 2.5)
        axes = figure.subplots()
        low = min([0.0, circuit["low"], *outside])
        high = max([0.0, circuit["high"], *outside])
        width = (high - low or 1.0) / BINS
        edges = [low + width * step for step in range(BINS + 1)]
        axes.hist(outside, bins=edges, color=BACKWARD, alpha=0.75, rwidth=0.92)
        axes.axvspan(circuit["low"], circuit["high"], color=FORWARD, alpha=0.18, linewidth=0)
        axes.axvline(circuit["value"], color=FORWARD, linewidth=2.2)
        axes.axvline(0, color=INK, linewidth=0.6)
        top = axes.get_ylim()[1]
        right = circuit["value"] > (low + high) / 2
        axes.annotate(
            f"the circuit {circuit['value']:.2f}".replace("-", "−"), (circuit["value"], top),
            (-7 if right else 7, -9), textcoords="offset points", ha="right" if right else "left", va="center",
        )  # fmt: skip
        axes.set_xlim(low - width, high + width)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_ylabel("sets")
        axes.set_xlabel("effect in the dense model, at the circuit's norm")
        quiet_grid(axes)
        more = sum(effect >= circuit["value"] for effect in outside)
        return to_svg(
            figure,
            name,
            f"Effects of {len(outside)} matched sets outside the circuit, from {min(outside):.2f} to {max(outside):.2f}; "
            f"the circuit {circuit['value']:.2f}, which {more} of them reach.",
        )
