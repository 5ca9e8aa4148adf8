"""What a bridged step has a GPU launch, counted without one, stays within its limits."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import launches


@pytest.fixture(scope="module")
def smollm2() -> launches.Counts:
    return launches.count_step(launches.smollm2(1000), 2, 32)


def test_a_step_beside_smollm2_stays_below_the_limit_casts_no_frozen_weight_and_never_waits(
    smollm2: launches.Counts,
) -> None:
    assert 0 < smollm2.outside.total() <= launches.LIMIT, smollm2.to_json()
    assert smollm2.frozen_bytes_cast == 0
    assert not smollm2.waits


def test_the_count_grows_with_neither_batch_nor_vocabulary(smollm2: launches.Counts) -> None:
    other = launches.count_step(launches.smollm2(20_000), 6, 32)
    assert other.to_json() == smollm2.to_json()


def test_frozen_weights_left_in_fp32_are_cast_and_counted() -> None:
    found = launches.count_step(launches.gpt2(500), 1, 16, n_layer=1, halve=False)
    assert found.frozen_bytes_cast > 0


def test_depth_of_the_sparse_model_adds_no_launches_to_projection_and_few_to_the_optimiser() -> None:
    shallow, deep = (launches.count_step(launches.gpt2(500), 1, 16, n_layer=n).outside for n in (2, 6))
    assert deep["projection"] == shallow["projection"]
    assert deep["adamw"] <= 3 * shallow["adamw"]


def test_an_operator_over_lists_counts_by_the_limits_of_a_launch_and_views_count_nothing() -> None:
    assert launches.launches(([torch.ones(1)] * 110,)) == 1
    assert launches.launches(([torch.ones(1)] * 111,)) == 2
    counting = launches.Counting(None)
    with counting:
        x = torch.ones(4, 4)
        x.view(16).t()
        (x + 1).sum()
        assert float(x[0, 0]) == 1
    assert counting.counts.outside.total() >= 3
    assert counting.counts.waits == {"_local_scalar_dense": 1}
    before = counting.counts.outside.total()
    with counting:
        x.view(2, 8).transpose(0, 1)
    assert counting.counts.outside.total() == before
