"""The sweep: equal nonzeros at every width, sizes over shared tasks only."""

import pytest

from foundation.errors import UserError
from sparse_model.plan.size import model_size
from sparse_model.studies.sweep import density_for, geometric_mean, sweep_points
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.shape import SparseShape


def test_every_width_gets_the_same_number_of_nonzeros() -> None:
    points = sweep_points(SparseShape(), TrainConfig(), 1024, 128, 60_000, (64, 128, 256), (0.05, 0.1))
    assert [point.series for point in points] == ["fixed nonzeros"] * 3 + ["fixed width"] * 2
    for point in points[:3]:
        shape, train = point.arm.shape, point.arm.train
        assert model_size(shape.config(1024, 128), train.density, train.floor).nonzero == pytest.approx(
            60_000, rel=0.005
        )
    assert [point.arm.train.density for point in points[3:]] == [0.05, 0.1]
    assert len({point.arm.name for point in points}) == 5


def test_a_width_that_cannot_have_that_many_nonzeros_is_refused() -> None:
    for nonzeros in (100, 10**8):
        with pytest.raises(UserError, match="change --nonzeros or --width"):
            density_for(SparseShape(), 1024, 128, nonzeros, 4)


def test_circuit_size_is_the_geometric_mean_over_shared_tasks() -> None:
    circuits = {"a": {"edges": 10}, "b": {"edges": 1000}, "c": {"full_loss": 0.6}}
    assert geometric_mean(circuits, ["a", "b"]) == pytest.approx(100)
    assert geometric_mean({"a": {"edges": 0}}, ["a"]) == 1
    assert geometric_mean(circuits, []) is None
