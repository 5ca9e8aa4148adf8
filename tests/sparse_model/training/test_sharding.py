"""Whole tensors of split parameters, in a world of one process (tests/sparse_model/training/test_processes.py has two)."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from sparse_model.training.optimizer import gradient_norms
from sparse_model.training.projection import SparseTensor, project
from sparse_model.training.sharding import gather, local, opened, split_like, whole


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    """One process, over which parameters can be split all the same."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def split(value: torch.Tensor, mesh: DeviceMesh) -> nn.Parameter:
    return nn.Parameter(distribute_tensor(value.clone(), mesh, [Shard(0)]))


def test_changes_to_an_opened_tensor_reach_the_part_and_a_plain_one_is_itself(mesh: DeviceMesh) -> None:
    plain, parameter = torch.zeros(3, 2), split(torch.zeros(3, 2), mesh)
    with torch.no_grad(), opened(parameter, plain) as (inside, same):
        inside[1], same[1] = 5, 5
    assert same is plain
    assert torch.equal(local(parameter.detach()), plain)
    assert torch.equal(whole(parameter).detach(), plain)


def test_a_split_tensor_keeps_the_same_entries_as_a_plain_one(mesh: DeviceMesh) -> None:
    value = torch.randn(6, 8).round(decimals=1)  # ties
    plain, parameter = nn.Parameter(value.clone()), split(value, mesh)
    project((SparseTensor("plain", plain, 1), SparseTensor("split", parameter, 1)), 0.3, 2)
    assert torch.equal(whole(parameter), plain)
    assert 0 < int(plain.count_nonzero()) < 48


def test_whole_tensors_are_gathered_for_the_process_that_keeps_them_alone(mesh: DeviceMesh) -> None:
    tensors = {"split": split(torch.ones(3), mesh), "plain": torch.zeros(())}
    kept = gather(tensors, keep=True)
    assert [(name, type(value), value.tolist()) for name, value in kept.items()] == [
        ("split", torch.Tensor, [1, 1, 1]),
        ("plain", torch.Tensor, 0),
    ]
    assert gather(tensors, keep=False) == {}


def test_gradients_of_split_parameters_have_the_norms_of_whole_ones(mesh: DeviceMesh) -> None:
    values = [torch.randn(4, 2), torch.randn(3), torch.randn(2)]
    plain, parts = [nn.Parameter(v) for v in values], [split(v, mesh) for v in values]
    for ours, theirs in zip(plain[:2], parts[:2], strict=True):
        ours.grad = torch.randn_like(ours)
        theirs.grad = split_like(ours.grad, theirs)
    torch.testing.assert_close(gradient_norms(parts), gradient_norms(plain))
    parts[1].grad = split_like(torch.tensor([0.0, torch.nan, 0.0]), parts[1])
    assert gradient_norms(parts).isfinite().tolist() == [True, False, True]
