"""Density anneal and sharkfin learning rate."""

import math
from itertools import pairwise

import pytest

from sparse_model.training.schedule import anneal_is_over, densities_at, density_at, learning_rate_factor
from sparse_model.training.train_config import TrainConfig

SHAPES = ["linear", "exponential", "cosine"]


@pytest.mark.parametrize("shape", SHAPES)
def test_density_falls_monotonically_to_its_final_value_at_the_end_of_the_anneal(shape: str) -> None:
    config = TrainConfig(steps=200, density=0.05, anneal=0.5, anneal_shape=shape)
    path = [density_at(config, step) for step in range(200)]
    assert all(a >= b for a, b in pairwise(path))
    assert path[0] < 1
    assert path[98] > 0.05 + 1e-9
    assert path[99:] == pytest.approx([0.05] * 101)


def test_halfway_through_the_anneal_each_shape_is_where_its_formula_says() -> None:
    middle = {
        shape: density_at(TrainConfig(steps=200, density=0.04, anneal=1.0, anneal_shape=shape), 99) for shape in SHAPES
    }
    assert middle["linear"] == pytest.approx(0.52)
    assert middle["exponential"] == pytest.approx(0.2)
    assert middle["cosine"] == pytest.approx(0.52)


def test_a_dense_run_stays_dense() -> None:
    assert {density_at(TrainConfig(steps=50, density=1.0), step) for step in range(50)} == {1.0}


def test_the_rate_warms_up_then_decays_linearly_and_grows_with_one_over_root_density() -> None:
    config = TrainConfig(steps=100, warmup=0.1, density=0.25, anneal=0.5)
    plain = TrainConfig(steps=100, warmup=0.1, density=1.0)
    for step in range(100):
        expected = min(1, (step + 1) / 10) * (1 - step / 100)
        assert learning_rate_factor(plain, step) == pytest.approx(expected)
        assert learning_rate_factor(config, step) == pytest.approx(expected / math.sqrt(density_at(config, step)))
        assert learning_rate_factor(config, step, sharkfin=False) == pytest.approx(expected)
    assert learning_rate_factor(plain, 99) == pytest.approx(0.01)


def test_a_run_of_one_step_has_a_finite_rate_and_the_final_density() -> None:
    config = TrainConfig(steps=1, density=0.1, anneal=0.5)
    assert density_at(config, 0) == pytest.approx(0.1)
    assert 0 < learning_rate_factor(config, 0) < math.inf


@pytest.mark.parametrize("shape", ["linear", "exponential", "cosine"])
def test_each_kind_of_tensor_anneals_to_its_own_density_and_unset_ones_to_that_of_matrices(shape: str) -> None:
    config = TrainConfig(steps=40, anneal_shape=shape, density=0.01, embedding_density=1 / 16, bias_density=1.0)
    alone = TrainConfig(steps=40, anneal_shape=shape, density=1 / 16)
    for step in range(40):
        found = densities_at(config, step)
        assert found["matrix"] == found["head"] == density_at(config, step)
        assert found["embedding"] == density_at(alone, step)
        assert found["bias"] == pytest.approx(1)
    assert densities_at(config, 39) == pytest.approx({"matrix": 0.01, "embedding": 1 / 16, "head": 0.01, "bias": 1})
    assert not anneal_is_over(TrainConfig(steps=40, density=1.0, head_density=0.5), 0)


@pytest.mark.parametrize("shape", ["linear", "exponential", "cosine"])
@pytest.mark.parametrize("density", [0.01, 0.05, 0.2, 1.0])
def test_the_anneal_is_over_exactly_when_the_density_is_final(shape: str, density: float) -> None:
    config = TrainConfig(steps=37, anneal=0.6, anneal_shape=shape, density=density)
    for step in range(37):
        assert anneal_is_over(config, step) == (abs(density_at(config, step) - density) < 1e-9)
