"""One table of the causal map as a heat map: places down, position roles across, the effect in every cell."""

from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from bridges.reports.figures.canvas import make_figure, style, to_svg

COLOURS = LinearSegmentedColormap.from_list("away to towards", ["#b84f0a", "#f0c8ab", "#f7f7f7", "#a3cbe6", "#006aa6"])
ON_LIGHT, ON_DARK = "#111111", "#ffffff"
"""Of what is written and drawn on cells, which keep their colours on a dark page."""


def causal_heat(
    table: Sequence[Sequence[Mapping[str, float]]],
    places: Sequence[str],
    roles: Sequence[str],
    counted: tuple[Collection[int], Collection[int]],
    title: str,
    name: str,
) -> str:
    """Effects [place][role], as SVG; the colour runs from −1 (away from the other answer) to 1.

    Args:
        counted: places and roles, by number, that a verdict may rest on; framed.
    """
    with style():
        figure = make_figure(4.1, 1.15 + 0.36 * len(places))
        axes = figure.subplots()
        values = [[cell["value"] for cell in row] for row in table]
        axes.pcolormesh(values, cmap=COLOURS, vmin=-1, vmax=1, edgecolors="#ffffff", linewidth=1)
        for place, row in enumerate(values):
            for role, value in enumerate(row):
                # no −0.00
                text = f"{round(value, 2) + 0.0:.2f}".replace("-", "−")
                is_counted = place in counted[0] and role in counted[1]
                colour = ON_DARK if abs(value) > 0.7 and is_counted else ON_LIGHT
                axes.text(role + 0.5, place + 0.5, text, ha="center", va="center", fontsize=9, color=colour)
        _frame(axes, (len(places), len(roles)), *counted)
        axes.set_xticks([role + 0.5 for role in range(len(roles))], roles)
        axes.set_yticks([place + 0.5 for place in range(len(places))], places)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_ylim(len(places) + 0.06, -0.06)
        axes.set_xlim(-0.06, len(roles) + 0.06)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title(title, pad=8, loc="left")
        return to_svg(figure, name, _spoken(values, places, roles, title))


def _frame(axes: Axes, shape: tuple[int, int], places: Collection[int], roles: Collection[int]) -> None:
    """A line around each run of neighbouring cells that count, and less colour over the others."""
    for place in range(shape[0]):
        for role in range(shape[1]):
            if place not in places or role not in roles:
                axes.add_patch(Rectangle((role, place), 1, 1, facecolor="#ffffff", alpha=0.45, linewidth=0, zorder=1.5))
    if not places or not roles:
        return
    left, width = min(roles), max(roles) - min(roles) + 1
    for first, last in runs(sorted(places)):
        axes.add_patch(
            Rectangle((left, first), width, last - first + 1, fill=False, edgecolor=ON_LIGHT, linewidth=1.8, zorder=3)
        )


def runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """First and last of every run of consecutive numbers, which ascend."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def _spoken(values: Sequence[Sequence[float]], places: Sequence[str], roles: Sequence[str], title: str) -> str:
    rows = [
        f"{place.replace(chr(10), ', ')}: "
        + ", ".join(f"{role.split(chr(10))[0]} {value:.2f}" for role, value in zip(roles, row, strict=True))
        for place, row in zip(places, values, strict=True)
    ]
    return f"{title}, effect by place and position. {'; '.join(rows)}."
