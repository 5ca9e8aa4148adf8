"""A training run: loss terms and density against the step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bridges.reports.figures.canvas import FAINT, make_figure, quiet_grid, style, to_svg

COLOURS = ("#222222", "#0072b2", "#c2540a", "#009e73", "#aa4499", "#56b4e9", "#997700")
VALIDATION = "validation_"
"""Prefix of a term measured on validation text; it has the colour of the term it measures."""
FEW = 40
"""Points up to which each is marked; a single one has no line."""


@dataclass(frozen=True)
class Series:
    """A term with the points that a logarithmic axis can show."""

    label: str
    points: tuple[tuple[float, float], ...]
    colour: str
    is_validation: bool


def series_of(rows: Sequence[Mapping[str, float]], terms: Sequence[str]) -> list[Series]:
    """What can be drawn: terms with a positive point. Terms that are the same everywhere share a line and its label."""
    found: list[Series] = []
    base = [term for term in terms if not term.startswith(VALIDATION)]
    colours = {term: COLOURS[number % len(COLOURS)] for number, term in enumerate(base)}
    for term in terms:
        points = tuple((row["step"], row[term]) for row in rows if row.get(term, 0) > 0)
        twin = next((number for number, one in enumerate(found) if one.points == points), None)
        if twin is not None and points:
            found[twin] = replace(found[twin], label=f"{found[twin].label}, {term}")
        elif points:
            meant = term.removeprefix(VALIDATION)
            colour = colours.setdefault(meant, COLOURS[len(colours) % len(COLOURS)])
            found.append(Series(term, points, colour, term.startswith(VALIDATION)))
    return found


def training_curves(rows: Sequence[Mapping[str, float]], terms: Sequence[str], name: str) -> str:
    """Loss terms (log scale, nats per token; NMSE in units of variance) above, density below, as SVG."""
    with style():
        figure = make_figure(8.6, 4.6)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for one in series_of(rows, terms):
            marked = one.is_validation or len(one.points) <= FEW
            upper.plot(
                *zip(*one.points, strict=True),
                color=one.colour,
                linestyle=(0, (1, 1.5)) if one.is_validation else "-",
                marker=("s" if one.is_validation else "o") if marked else None,
                markersize=3 if len(one.points) > 1 else 5,
                linewidth=1.2 if one.is_validation else 1.5,
                label=one.label,
            )
        upper.set_yscale("log")
        upper.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        upper.yaxis.set_minor_locator(NullLocator())
        upper.set_ylabel("loss term")
        upper.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        steps = [row["step"] for row in rows]
        marker = "o" if len(rows) <= FEW else None
        lower.plot(steps, [row["density"] for row in rows], color=FAINT, linewidth=1.6, marker=marker, markersize=3)
        lower.set_ylabel("density")
        lower.set_ylim(0, 1.05)
        lower.set_xlabel("step")
        for axes in (upper, lower):
            quiet_grid(axes)
        last = rows[-1]
        ends = ", ".join(f"{term} {last[term]:.3g}" for term in terms if term in last)
        return to_svg(
            figure, name, f"Training curves; at step {last['step']:.0f}: {ends}, density {last['density']:.3g}."
        )
