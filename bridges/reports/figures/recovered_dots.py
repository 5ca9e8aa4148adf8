"""Recovered, edit beside controls and baselines: one row each under its name, both directions, intervals as bars."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from bridges.reports.figures.canvas import BACKWARD, FAINT, FORWARD, INK, RULE, make_figure, style, to_svg

VIEW = (-0.6, 1.8)
"""Range of recovered that is drawn at most; what lies beyond is marked at the edge with its value."""
MARKS = {0: (FORWARD, "o", -0.04), 1: (BACKWARD, "s", -0.26)}
"""Colour, marker and place above the middle of the row, by number of the direction."""


BEHIND_TEXT = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}


def recovered_dots(rows: Sequence[tuple[str, Sequence[Mapping[str, float] | None]]], directions: Sequence[str],
                   required: tuple[float, float], name: str) -> str:  # fmt: skip
    """Rows of (label, estimate per direction) from top to bottom, as SVG.

    Args:
        required: range of recovered that passes, shaded.
    """
    with style():
        figure = make_figure(4.9, 0.95 + 0.46 * len(rows))
        axes = figure.subplots()
        axes.axvspan(*required, color="#e9f2e4", linewidth=0, zorder=0)
        for level, line in ((0.0, "-"), (1.0, (0, (6, 2)))):
            axes.axvline(level, color=FAINT, linewidth=0.9, linestyle=line, zorder=1)
        low, high = _view(rows)
        for place, (_, estimates) in enumerate(rows):
            for number, found in enumerate(estimates):
                if found is not None:
                    _mark(axes, place, found, number, (low, high))
        axes.set_yticks([])
        axes.set_ylim(len(rows) - 0.4, -0.7)
        axes.set_xlim(low, high)
        axes.set_xlabel("recovered (0 as without edit, 1 as the full patch)")
        axes.spines["left"].set_visible(False)
        for place, (label, _) in enumerate(rows):
            axes.axhline(place + 0.42, color=RULE, linewidth=0.5, zorder=0)
            axes.annotate(
                label,
                (0, place - 0.33),
                xycoords=("axes fraction", "data"),
                fontsize=8.8,
                va="center",
                bbox=BEHIND_TEXT,
            )
        handles = [
            axes.plot([], [], marker, color=colour, label=label)[0]
            for (colour, marker, _), label in zip(MARKS.values(), directions, strict=False)
        ]
        figure.legend(handles=handles, loc="outside upper right", ncols=2, handletextpad=0.2, columnspacing=1.2)
        return to_svg(figure, name, _spoken(rows, directions))


def _view(rows: Sequence[tuple[str, Sequence[Mapping[str, float] | None]]]) -> tuple[float, float]:
    bounds = [e[side] for _, estimates in rows for e in estimates if e is not None for side in ("low", "high")]
    low, high = max(VIEW[0], min([0.0, *bounds])), min(VIEW[1], max([1.25, *bounds]))
    return low - 0.08, high + 0.08


def _mark(axes: Axes, place: int, found: Mapping[str, Any], number: int, view: tuple[float, float]) -> None:
    colour, marker, lift = MARKS[number]
    y = place - lift
    if not view[0] <= found["value"] <= view[1]:
        right = found["value"] > view[1]
        edge = view[1] - 0.03 if right else view[0] + 0.03
        axes.plot([edge], [y], ">" if right else "<", color=colour, markersize=6)
        text = f"{found['value']:.3g}".replace("-", "−")
        axes.annotate(text, (edge, y), (-7 if right else 7, 0), textcoords="offset points", fontsize=8.5, va="center",
                      ha="right" if right else "left", color=INK)  # fmt: skip
        return
    axes.plot([found["low"], found["high"]], [y, y], color=colour, linewidth=2, solid_capstyle="butt", alpha=0.55)
    axes.plot([found["value"]], [y], marker, color=colour, markersize=6.2)


def _spoken(rows: Sequence[tuple[str, Sequence[Mapping[str, float] | None]]], directions: Sequence[str]) -> str:
    parts = []
    for label, estimates in rows:
        values = [f"{found['value']:.2f}" for found in estimates if found is not None]
        parts.append(f"{label} {' and '.join(values)}")
    return f"Recovered share of the full patch's effect ({' and '.join(directions)}): {'; '.join(parts)}."
