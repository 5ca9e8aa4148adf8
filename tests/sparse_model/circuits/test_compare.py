"""Sparse against dense: what is counted, what is chosen, and means and ratios worked out by hand."""

import math

import pytest
import torch

from foundation.errors import UserError
from sparse_model.circuits.compare import Point, summarise, sweep, whole_edges
from sparse_model.circuits.prune_config import CompareConfig

from .conftest import Known

FAST = {"steps": 6, "batch_pairs": 4, "pairs": 8, "edge_steps": 3, "elimination_rounds": 1}


def _point(edges: int, target: float = 0.15, needed: int | None = None, k_coef: float = 1e-3) -> Point:
    return Point(target, k_coef, 5, edges, needed, 0.1, 0.2)


def test_every_point_of_a_sweep_reaches_its_target_and_easier_targets_need_no_more_edges(known: Known) -> None:
    config = CompareConfig(targets=[0.2, 0.4, 0.65], at=0.4, **FAST)
    points = sweep(known.model, known.train, known.validation, known.validation, known.values, config, 3e-3)
    assert points
    assert all(point.loss <= point.target for point in points)
    assert [point.edges_needed is not None for point in points] == [point.target == 0.4 for point in points]
    assert [point.target for point in points] == sorted(point.target for point in points)
    assert [point.edges for point in points] == sorted((point.edges for point in points), reverse=True)
    assert all(point.edges <= whole_edges(known.model) for point in points)
    assert all(point.edges_needed <= point.edges for point in points if point.edges_needed is not None)


def test_a_target_that_only_the_whole_model_reaches_has_no_circuit(
    known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = {name: torch.ones_like(value, dtype=torch.bool) for name, value in known.values.items()}
    for name in ("discretised", "reduced"):
        monkeypatch.setattr(f"sparse_model.circuits.compare.{name}", lambda *_, **__: everything)
    config = CompareConfig(targets=[0.65], at=0.65, **FAST)
    assert sweep(known.model, known.train, known.validation, known.validation, known.values, config, 3e-3) == []


def test_targets_the_whole_model_misses_are_left_out(known: Known) -> None:
    config = CompareConfig(targets=[1e-9, 5.0], at=5.0, **FAST)
    points = sweep(known.model, known.train, known.validation, known.validation, known.values, config, 3e-3)
    assert [point.target for point in points] == [5.0]
    config = CompareConfig(targets=[1e-9], at=1e-9, **FAST)
    assert sweep(known.model, known.train, known.validation, known.validation, known.values, config, 3e-3) == []


def test_the_edges_of_a_whole_model_are_its_nonzero_weights(known: Known) -> None:
    weights = [
        weight
        for block in known.model.blocks
        for weight in (
            block.attn.c_attn.weight,
            block.attn.c_proj.weight,
            block.mlp.c_fc.weight,
            block.mlp.c_proj.weight,
        )
    ]
    assert whole_edges(known.model) == sum(int(torch.count_nonzero(weight)) for weight in weights)


def test_means_and_the_ratio_are_geometric_over_tasks_of_both_models_with_the_best_try_of_each() -> None:
    sweeps = {
        "sparse": {"x": [_point(40), _point(10)], "y": [_point(90)], "only_sparse": [_point(1)]},
        "dense": {"x": [_point(40)], "y": [_point(1440), _point(2000)], "only_sparse": [], "z": [_point(7)]},
    }
    (row,) = summarise(sweeps, [0.15])
    assert set(row["tasks"]) == {"x", "y"}
    assert row["missing"] == ["only_sparse", "z"]
    assert row["tasks"]["x"]["sparse"]["edges"] == 10
    assert row["edges"]["sparse"]["value"] == pytest.approx(math.sqrt(10 * 90))
    assert row["edges"]["dense"]["value"] == pytest.approx(math.sqrt(40 * 1440))
    assert row["ratio"]["value"] == pytest.approx(math.sqrt(4 * 16))
    assert (row["ratio"]["low"], row["ratio"]["high"]) == pytest.approx((4, 16))
    assert row["ratio_needed"] is None


def test_edge_masks_are_compared_by_the_fewest_edges_of_any_try() -> None:
    sweeps = {
        "sparse": {"x": [_point(40, needed=5), _point(10, needed=8)]},
        "dense": {"x": [_point(40, needed=20)]},
    }
    (row,) = summarise(sweeps, [0.15])
    assert row["ratio_needed"]["value"] == pytest.approx(4)


def test_a_target_without_tasks_has_no_figures() -> None:
    (row,) = summarise({"sparse": {"x": [_point(4)]}, "dense": {"x": []}}, [0.15])
    assert row["ratio"] is None
    assert row["missing"] == ["x"]


@pytest.mark.parametrize("wrong", [{"targets": [0.1]}, {"k_coefs": [-1.0]}, {"targets": [0.0, 0.15]}])
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, list[float]]) -> None:
    with pytest.raises(UserError):
        CompareConfig.from_mapping(wrong)
