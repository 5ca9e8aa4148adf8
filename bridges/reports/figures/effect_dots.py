"""The circuit's effect beside upper bounds, controls and baselines: one row each under its name, intervals as bars."""

from collections.abc import Mapping, Sequence

from bridges.reports.figures.canvas import BACKWARD, FAINT, FORWARD, INK, RULE, make_figure, style, to_svg

COLOURS = {"circuit": FORWARD, "bound": INK, "control": FAINT, "baseline": BACKWARD}


def effect_dots(rows: Sequence[tuple[str, str, Mapping[str, float]]], name: str) -> str:
    """Rows of (kind, label, estimate) from top to bottom, as SVG; the circuit's level runs down as a line."""
    with style():
        figure = make_figure(5.6, 0.75 + 0.34 * len(rows))
        axes = figure.subplots()
        for level, dashes in ((0.0, "-"), (1.0, (0, (6, 2)))):
            axes.axvline(level, color=FAINT, linewidth=0.9, linestyle=dashes, zorder=1)
        for place, (kind, _, found) in enumerate(rows):
            colour = COLOURS[kind]
            if kind == "circuit":
                axes.axvspan(found["low"], found["high"], color=colour, alpha=0.15, linewidth=0, zorder=0)
            axes.plot([found["low"], found["high"]], [place, place], color=colour, linewidth=2.2, alpha=0.6)
            axes.plot([found["value"]], [place], "o", color=colour, markersize=6.2)
            axes.axhline(place + 0.5, color=RULE, linewidth=0.5, zorder=0)
        axes.set_yticks(range(len(rows)), [label for _, label, _ in rows])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel("effect")
        said = "; ".join(f"{label} {found['value']:.2f}" for _, label, found in rows)
        return to_svg(figure, name, f"Effects on the dense model's answer: {said}.")
