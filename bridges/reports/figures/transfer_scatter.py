"""Transfer: the effect of every intervention in the dense model against that in the sparse model."""

from collections.abc import Mapping, Sequence
from typing import Any

from bridges.reports.figures.canvas import BACKWARD, FAINT, FORWARD, INK, make_figure, style, to_svg

LOOKS = {
    "channel": ("one channel", "o", FORWARD, 4.5),
    "part": ("part of the circuit", "^", "#56a0d3", 5),
    "circuit": ("the circuit", "*", FORWARD, 13),
    "outside": ("matched set outside", "s", BACKWARD, 4),
    "complement": ("everything else", "X", "#aa4499", 7),
    "all": ("all channels", "P", "#00805a", 7),
}
"""Kind of intervention → its name, marker, colour and size."""


def transfer_scatter(points: Sequence[Mapping[str, Any]], slope: float, name: str) -> str:
    """Points with `kind`, `predicted` and `measured` (an estimate), as SVG.

    Args:
        slope: of the fitted line, through the origin.
    """
    with style():
        figure = make_figure(6.3, 4.3)
        axes = figure.subplots()
        ends = [point["predicted"] for point in points]
        ends += [point["measured"][side] for point in points for side in ("low", "high")]
        low, high = min([0.0, *ends]), max([0.1, *ends])
        margin = 0.05 * (high - low)
        view = (low - margin, high + margin)
        for level in (axes.axhline, axes.axvline):
            level(0, color=FAINT, linewidth=0.6)
        axes.plot(view, view, color=FAINT, linewidth=1, linestyle=(0, (5, 3)), label="equal effects")
        axes.plot(view, [slope * end for end in view], color=INK, linewidth=1.4, label=f"fit, slope {slope:.2f}")
        for kind, (label, marker, colour, size) in LOOKS.items():
            found = [point for point in points if point["kind"] == kind]
            if not found:
                continue
            x, y = [p["predicted"] for p in found], [p["measured"]["value"] for p in found]
            lows, highs = [p["measured"]["low"] for p in found], [p["measured"]["high"] for p in found]
            axes.vlines(x, lows, highs, color=colour, linewidth=1, alpha=0.6)
            axes.plot(x, y, marker, color=colour, markersize=size, markeredgewidth=0, alpha=0.9, label=label)
        axes.set_xlim(*view)
        axes.set_ylim(*view)
        axes.set_aspect("equal")
        axes.set_xlabel("effect in the sparse model (predicts)")
        axes.set_ylabel("effect in the dense model (measured)")
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), handletextpad=0.5)
        return to_svg(figure, name, _spoken(points, slope))


def _spoken(points: Sequence[Mapping[str, Any]], slope: float) -> str:
    whole = [
        f"{LOOKS[point['kind']][0]} {point['predicted']:.2f} predicted, {point['measured']['value']:.2f} measured"
        for point in points
        if point["kind"] in ("circuit", "complement", "all")
    ]
    return f"Transfer over {len(points)} interventions, slope {slope:.2f}: {'; '.join(whole)}."
