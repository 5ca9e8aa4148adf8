"""P(target) against the strength of an edit, 0 to 1: the best single channel, the circuit, random sets, none, a patch."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from bridges.reports.figures.canvas import BACKWARD, FAINT, FORWARD, INK, make_figure, quiet_grid, style, to_svg

LINES = {
    "patch": ("dense patch", INK, (0, (6, 2)), ""),
    "circuit": ("circuit", FORWARD, "-", "o"),
    "channel": ("best channel", "#00805a", "-", "^"),
    "random": ("random sets", BACKWARD, "-", "s"),
    "none": ("no edit", FAINT, (0, (1, 1.5)), ""),
}
"""Line of the report → its name, colour, dashes and marker."""


def dose_response(
    doses: Sequence[float], lines: Mapping[str, Sequence[Mapping[str, Any]]], title: str, name: str, top: float
) -> str:
    """One direction of a dose–response, as SVG.

    Args:
        lines: name → per dose a mapping with `p_target`, an estimate.
        top: upper end of the y axis, shared by both directions.
    """
    with style():
        figure = make_figure(4.9, 3.3)
        axes = figure.subplots()
        levels = []
        for key, (label, colour, dashes, marker) in LINES.items():
            if not lines.get(key):
                continue
            found = [point["p_target"] for point in lines[key]]
            values = [point["value"] for point in found]
            axes.plot(doses, values, marker=marker or None, color=colour, linestyle=dashes, linewidth=1.7, markersize=4)
            if marker:
                low, high = ([point[side] for point in found] for side in ("low", "high"))
                axes.fill_between(doses, low, high, color=colour, alpha=0.15, linewidth=0)
            levels.append((values[-1], label, colour))
        axes.set_ylim(-0.03 * top, top)
        axes.set_xlim(-0.02, 1.02 * max(doses))
        axes.set_xticks(list(doses))
        axes.set_xlabel("strength of the edit")
        axes.set_ylabel("P(target)")
        axes.set_title(title)
        quiet_grid(axes)
        _name_ends(axes, levels, top)
        ends = "; ".join(f"{label} {value:.3g}" for value, label, _ in levels)
        return to_svg(figure, name, f"Dose–response, {title}: P(target) at strength {max(doses):g}: {ends}.")


def highest(directions: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> float:
    """An upper end of the y axis that holds all lines and bands of all directions; at most 1."""
    found = [point["p_target"]["high"] for lines in directions.values() for line in lines.values() for point in line]
    return min(1.03, max(1.08 * max(found, default=1.0), 1e-3))


def _name_ends(axes: Axes, levels: Sequence[tuple[float, str, str]], top: float) -> None:
    """Names at the right ends of the lines, moved apart where they would overlap."""
    least, previous = 0.075 * top, -1e9
    for level, label, colour in sorted(levels):
        place = max(level, previous + least)
        axes.annotate(label, (1.02, place), xycoords=("axes fraction", "data"), fontsize=8.5, color=colour, va="center")
        previous = place
