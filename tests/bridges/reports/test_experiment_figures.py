"""The figures of the experiments hold the figures they are given, all of them and nothing else."""

from typing import Any

import pytest

from bridges.reports.figures.arms_dots import arms_dots
from bridges.reports.figures.size_against_loss import size_against_loss


def point(series: str, width: int, edges: float | None, loss: float) -> dict[str, Any]:
    return {
        "series": series, "width": width, "density": 0.05, "circuit_size": edges, "cross_entropy": {"mixture": loss}
    }  # fmt: skip


def test_a_sweep_is_drawn_point_by_point_and_unsized_models_are_left_out() -> None:
    points = [
        point("fixed nonzeros", 64, 300.0, 2.8),
        point("fixed nonzeros", 128, 120.0, 2.6),
        point("fixed width", 64, 200.0, 2.7),
        point("fixed width", 64, None, 2.9),
    ]
    axes = size_against_loss({"tasks": ["a"], "target_loss": 0.15, "points": points}).axes[0]
    drawn = {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}
    assert drawn == {"fixed nonzeros": [(300, 2.8), (120, 2.6)], "fixed width": [(200, 2.7)]}
    assert [text.get_text() for text in axes.texts] == ["S=128, 5.0%", "S=64, 5.0%", "S=64, 5.0%"]
    assert axes.get_xscale() == "log"
    assert not size_against_loss({"tasks": [], "target_loss": 0.15, "points": points[3:]}).axes[0].lines


def test_runs_with_equal_seeds_are_joined_and_means_marked() -> None:
    runs = {
        arm: [{"cross_entropy": {"text": loss}} for loss in losses]
        for arm, losses in (("a", (2.0, 2.2)), ("b", (2.4, 2.5)))
    }
    axes = arms_dots(runs, {"a": "first", "b": "second"}).axes[0]
    drawn = [tuple(map(float, line.get_ydata())) for line in axes.lines]
    assert drawn[:2] == [(2.0, 2.4), (2.2, 2.5)]
    assert drawn[2:] == [(2.0, 2.2), pytest.approx((2.1, 2.1)), (2.4, 2.5), pytest.approx((2.45, 2.45))]
