"""Circuit edges of a sparse and a dense model against the task loss reached: the picture of `circuit compare`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from bridges.reports.figures.canvas import BACKWARD, FAINT, FORWARD, make_figure, quiet_grid, style, to_bytes, to_svg
from foundation.writing import replace_files, written

JSON, SVG, PNG = "comparison.json", "comparison.svg", "comparison.png"
LOOKS = {"sparse": (FORWARD, "o"), "dense": (BACKWARD, "s")}
PUBLISHED_RATIO = 16
"""Gao et al. 2025, at their scale."""


def write_comparison(folder: Path, report: Mapping[str, Any]) -> None:
    """Write a comparison (`cli.circuit_compare`) and its picture into an existing folder; an earlier one goes as a whole.

    Raises:
        UnwrittenError: the disk is full; what was there is untouched.
    """
    described = json.dumps(report, indent=1, allow_nan=False) + "\n"
    with style():
        figure = comparison_figure(report)
        drawn = to_svg(figure, "comparison", comparison_label(report)) + "\n"
        picture = to_bytes(figure, "png")
    with written(folder):
        replace_files({folder / JSON: described.encode(), folder / SVG: drawn.encode(), folder / PNG: picture})


def comparison_label(report: Mapping[str, Any]) -> str:
    """What the picture shows, in a sentence."""
    said = [
        f"at loss {row['target']:g} {row['edges']['sparse']['value']:.0f} sparse and {row['edges']['dense']['value']:.0f} "
        f"dense edges ({row['ratio']['value']:.1f} times)"
        for row in report["rows"]
        if row["ratio"]
    ]
    return f"Edges of a task's circuit, geometric mean over tasks: {'; '.join(said)}."


def comparison_figure(report: Mapping[str, Any]) -> Figure:
    """Left edges by target loss, every task faint behind the means; right the ratio dense / sparse."""
    rows = [row for row in report["rows"] if row["ratio"]]
    targets = [row["target"] for row in rows]
    figure = make_figure(8.6, 3.7)
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    for name, (colour, marker) in LOOKS.items():
        for task in {task for row in rows for task in row["tasks"]}:
            points = [(row["target"], row["tasks"][task][name]["edges"]) for row in rows if task in row["tasks"]]
            left.plot(*zip(*points, strict=True), color=colour, linewidth=0.6, alpha=0.25, zorder=1)
        means = [row["edges"][name] for row in rows]
        low, high = [m["low"] for m in means], [m["high"] for m in means]
        left.fill_between(targets, low, high, color=colour, alpha=0.2, linewidth=0, zorder=2)
        values = [m["value"] for m in means]
        left.plot(targets, values, color=colour, marker=marker, markersize=4.5, linewidth=1.8, label=name, zorder=3)
    left.set_yscale("log")
    left.set_ylabel("edges of a task's circuit (log scale)")
    left.yaxis.set_major_formatter(FuncFormatter(_plainly))
    left.yaxis.set_minor_formatter(NullFormatter())
    left.legend(loc="upper right")
    ratios = [row["ratio"] for row in rows]
    right.fill_between(
        targets, [r["low"] for r in ratios], [r["high"] for r in ratios], color=FAINT, alpha=0.2, linewidth=0
    )
    right.plot(targets, [r["value"] for r in ratios], color="black", marker="o", markersize=4.5, linewidth=1.8)
    models = report["models"]
    for value, text in (
        (models["dense"]["edges"] / models["sparse"]["edges"], "whole models"),
        (PUBLISHED_RATIO, "published, at its scale"),
    ):
        right.axhline(value, color=FAINT, linewidth=0.9, linestyle=(0, (6, 2)))
        right.annotate(
            text, (max(targets), value), (0, 2), textcoords="offset points", ha="right", fontsize=8, color=FAINT
        )
    right.set_yscale("log", base=2)
    right.yaxis.set_major_formatter(FuncFormatter(_plainly))
    right.set_ylabel("edges dense / sparse")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(targets))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{target:g}" for target in targets])
        axes.set_xlabel("task loss to reach, nats (chance 0.69)")
        quiet_grid(axes)
    left.set_title("circuits", loc="left")
    right.set_title("ratio", loc="left")
    return figure


def _plainly(value: float, _: object) -> str:
    return f"{value:,g}"
