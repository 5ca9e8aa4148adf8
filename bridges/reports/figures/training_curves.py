"""A training run: loss terms and density against the step."""

from collections.abc import Mapping, Sequence

from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bridges.reports.figures.canvas import FAINT, make_figure, quiet_grid, style, to_svg

COLOURS = ("#222222", "#0072b2", "#c2540a", "#009e73", "#aa4499", "#56b4e9", "#997700")
LINES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))


def training_curves(rows: Sequence[Mapping[str, float]], terms: Sequence[str], name: str) -> str:
    """Loss terms (log scale, nats per token; NMSE in units of variance) above, density below, as SVG."""
    with style():
        figure = make_figure(8.6, 4.6)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        for number, term in enumerate(terms):
            points = [(row["step"], row[term]) for row in rows if row.get(term, 0) > 0]
            line = LINES[number // len(COLOURS) % len(LINES)] if number >= len(COLOURS) else LINES[number % len(LINES)]
            upper.plot(
                *zip(*points, strict=True),
                color=COLOURS[number % len(COLOURS)],
                linestyle=line,
                linewidth=1.4,
                label=term,
            )
        upper.set_yscale("log")
        upper.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        upper.yaxis.set_minor_locator(NullLocator())
        upper.set_ylabel("loss term")
        upper.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        lower.plot([row["step"] for row in rows], [row["density"] for row in rows], color=FAINT, linewidth=1.6)
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
