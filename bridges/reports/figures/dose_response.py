"""P(target) and logit difference against the strength of the edit, one direction, references as lines."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from bridges.reports.figures.canvas import BACKWARD, FAINT, FORWARD, INK, make_figure, quiet_grid, style, to_svg

REFERENCES = (
    ("full_patch", "full patch", (0, (6, 2))),
    ("none", "no edit", (0, (1, 1.5))),
    ("random", "random", (0, (4, 2, 1, 2))),
)
PANELS = (("p_target", "P(target)"), ("logit_difference", "logit difference (nats)"))


def dose_response(
    found: Mapping[str, Any], title: str, name: str, limits: Sequence[tuple[float, float]], forward: bool = True
) -> str:
    """One direction of a paired edit (`paired[direction]` of a validation), as SVG.

    Args:
        limits: y range of the two panels, shared by both directions.
    """
    with style():
        figure = make_figure(4.9, 4.9)
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, (key, label), limit in zip((upper, lower), PANELS, limits, strict=True):
            _panel(axes, found, key, FORWARD if forward else BACKWARD)
            axes.set_ylabel(label)
            axes.set_ylim(*limit)
        figure.suptitle(title, fontsize=10.5)
        lower.set_xlabel("strength of the edit (0 none, 1 as the circuit claims)")
        edited = found["edited"]["p_target"]["value"]
        summary = (
            f"Dose–response, {title}: P(target) goes from {found['none']['p_target']['value']:.2f} without edit to "
            f"{edited:.2f} at the chosen strength {found['strength']:.3g}; the full patch gives "
            f"{found['full_patch']['p_target']['value']:.2f}."
        )
        return to_svg(figure, name, summary)


def shared_limits(paired: Mapping[str, Mapping[str, Any]]) -> list[tuple[float, float]]:
    """One y range per panel that holds every direction's bands and references."""
    ranges = []
    for key, _ in PANELS:
        values = [
            bound
            for found in paired.values()
            for point in [*found["dose_response"], *(found[reference] for reference, _, _ in REFERENCES)]
            for bound in (point[key]["low"], point[key]["high"])
        ]
        low, high = (0.0, 1.0) if key == "p_target" else (min(values), max(values))
        margin = 0.05 * ((high - low) or 1)
        ranges.append((low - margin, high + margin))
    return ranges


def _panel(axes: Axes, found: Mapping[str, Any], key: str, colour: str) -> None:
    points = found["dose_response"]
    strengths = [point["strength"] for point in points]
    right = max(strengths)
    levels = []
    for reference, label, dashes in REFERENCES:
        level = found[reference][key]["value"]
        axes.axhline(level, color=FAINT, linewidth=1, linestyle=dashes)
        levels.append((level, label))
    axes.fill_between(
        strengths,
        [p[key]["low"] for p in points],
        [p[key]["high"] for p in points],
        color=colour,
        alpha=0.18,
        linewidth=0,
    )
    axes.plot(strengths, [p[key]["value"] for p in points], color=colour, linewidth=1.8, marker="o", markersize=3.2)
    chosen = next(p for p in points if p["strength"] == found["strength"])
    axes.plot(
        [chosen["strength"]],
        [chosen[key]["value"]],
        "o",
        color=colour,
        markersize=8,
        markeredgecolor=INK,
        markeredgewidth=1.2,
    )
    if key == "logit_difference":
        axes.axhline(0, color=INK, linewidth=0.6)
    quiet_grid(axes)
    axes.set_xlim(-0.04 * right, right * 1.02)
    _name_levels(axes, levels, right)


def _name_levels(axes: Axes, levels: Sequence[tuple[float, str]], right: float) -> None:
    """Names of the reference lines, outside on the right; lines too near to each other share a label."""
    span = max(level for level, _ in levels) - min(level for level, _ in levels) or 1.0
    groups: list[tuple[float, list[str]]] = []
    for level, label in sorted(levels):
        if groups and level - groups[-1][0] < 0.09 * span:
            groups[-1][1].append(label)
        else:
            groups.append((level, [label]))
    for level, labels in groups:
        axes.annotate(
            ",\n".join(reversed(labels)),
            (1.02, level),
            xycoords=("axes fraction", "data"),
            fontsize=8.5,
            color=FAINT,
            va="center",
        )
