"""Figures of a task's evidence draw what they are given and frame what a verdict may rest on."""

import re
from typing import Any

import pytest

from bridges.reports.evidence_section import inner_places
from bridges.reports.figures.causal_heat import causal_heat, runs
from bridges.reports.figures.concentration import concentration_curve
from bridges.reports.figures.dose_response import dose_response, highest
from bridges.reports.figures.effect_dots import effect_dots
from bridges.reports.figures.specificity_strip import specificity_strip
from bridges.reports.figures.training_curves import series_of, training_curves
from bridges.reports.figures.transfer_scatter import transfer_scatter


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_every_cell_of_the_map_says_its_effect_and_only_what_counts_is_framed() -> None:
    table = [[estimate(value) for value in row] for row in ((1.0, 0.0), (0.25, -0.75), (0.0, 0.5))]
    svg = causal_heat(table, ["site 0", "site 1", "site 2"], ["changed", "last"], ([1], [1]), "dense", "map")
    said = texts(svg)
    for number in ("1.00", "0.25", "−0.75", "0.50"):
        assert number in said
    assert "−0.00" not in said
    frame = re.compile(r"fill: none; stroke: #111111")
    assert len(frame.findall(svg)) == 1
    apart = causal_heat(table, ["site 0", "site 1", "site 2"], ["changed", "last"], ([0, 2], [1]), "dense", "map")
    assert len(frame.findall(apart)) == 2
    none = causal_heat(table, ["site 0", "site 1", "site 2"], ["changed", "last"], ([], [1]), "dense", "map")
    assert not frame.search(none)


def test_runs_are_consecutive() -> None:
    assert runs([1, 2, 3, 5, 7, 8]) == [(1, 3), (5, 5), (7, 8)]
    assert runs([]) == []


def test_a_verdict_rests_on_the_places_of_the_transfer_family_else_neither_on_the_embedding_nor_the_last() -> None:
    places = [{"sparse_site": site, "dense_site": site} for site in range(4)]
    assert inner_places({"causal_map": {"places": places}}) == [1, 2]
    points = [{"place": 2}, {"place": 2}]
    assert inner_places({"causal_map": {"places": places}, "transfer": {"points": points}}) == [2]


def test_the_scatter_has_every_kind_once_in_its_legend_and_both_lines() -> None:
    points = [
        {"kind": kind, "predicted": 0.5, "measured": estimate(0.4)} for kind in ("channel", "channel", "circuit", "all")
    ]
    said = texts(transfer_scatter(points, 0.8, "scatter"))
    assert said.count("one channel") == said.count("the circuit") == said.count("all channels") == 1
    assert "matched set outside" not in said
    assert "equal effects" in said
    assert "fit, slope 0.80" in said


def test_the_strip_counts_the_sets_that_reach_the_circuit() -> None:
    svg = specificity_strip(estimate(0.5), [0.1, 0.2, 0.6], "strip")
    assert "which 1 of them reach" in svg
    assert "the circuit 0.50" in texts(svg)


def test_lines_of_the_dose_response_are_named_and_those_not_measured_are_left_out() -> None:
    line = [{"p_target": estimate(value)} for value in (0.1, 0.4)]
    said = texts(dose_response([0.0, 1.0], {"circuit": line, "none": line}, "a → b", "dose", 0.5))
    assert "circuit" in said
    assert "no edit" in said
    assert "random sets" not in said


@pytest.mark.parametrize(("values", "top"), [((0.1, 0.4), 0.45 * 1.08), ((0.9, 0.99), 1.03)])
def test_both_directions_share_an_axis_that_holds_their_bands(values: tuple[float, ...], top: float) -> None:
    line = [{"p_target": estimate(value)} for value in values]
    other = [{"p_target": estimate(0.05)}]
    assert highest({"a_to_b": {"circuit": line}, "b_to_a": {"circuit": other}}) == pytest.approx(top)


def test_the_concentration_curve_names_its_bound_and_skips_ticks_that_would_touch() -> None:
    points = [{"channels": n, **estimate(0.1)} for n in (1, 2, 32, 33)]
    said = texts(concentration_curve(points, 0.9, "concentration"))
    assert "dense patch" in said
    assert "33" in said
    assert "32" not in said
    assert "dense patch" not in texts(concentration_curve(points, None, "concentration"))


def test_effects_stand_under_their_names() -> None:
    rows: list[Any] = [("bound", "dense patch", estimate(0.9)), ("circuit", "the circuit", estimate(0.5))]
    assert {"dense patch", "the circuit"} <= set(texts(effect_dots(rows, "effects")))


ROWS = [
    {"step": step, "loss": 2.0 / step, "kl": 2.0 / step, "dead": 0.0, "density": 1.0, "validation_loss": 3.0 / step}
    for step in (1, 2, 3)
]


def test_training_curves_list_only_what_has_a_visible_line() -> None:
    series = series_of(ROWS, ["loss", "kl", "dead", "validation_loss"])
    assert [one.label for one in series] == ["loss, kl", "validation_loss"]
    assert series[1].colour == series[0].colour, "the same term on other text"
    assert series[1].is_validation
    said = texts(training_curves(ROWS, ["loss", "kl", "dead", "validation_loss"], "training"))
    assert "loss, kl" in said
    assert "dead" not in said


def test_a_run_of_one_step_has_visible_points() -> None:
    svg = training_curves(ROWS[:1], ["loss"], "training")
    assert "<use" in svg[svg.index('id="training-axes_1"') : svg.index('id="training-axes_2"')].split("line2d_")[-1]
