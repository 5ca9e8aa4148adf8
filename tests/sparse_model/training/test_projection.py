"""Weight projection against an independent NumPy one."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_model import SparseTransformer
from sparse_model.plan.size import model_size
from sparse_model.training.projection import (
    density_report,
    kept_entries,
    kept_entries_reference,
    project,
    project_on_device,
    sparse_tensors,
)
from sparse_model.training.train_config import TensorKind

Make = Callable[..., SparseTransformer]


def kept_slowly(weight: np.ndarray, k: int, axis: int | None, floor: int) -> np.ndarray:
    """One entry after the other: first the floors, then the largest of the rest, earlier entries first among equals."""
    kept = np.zeros(weight.shape, dtype=bool)
    if axis is not None and floor:
        for line in range(weight.shape[1 - axis]):
            place = (line, slice(None)) if axis == 1 else (slice(None), line)
            best = np.argsort(-np.abs(weight[place]), kind="stable")[:floor]
            view = kept[place]
            view[best] = True
    for flat in np.argsort(-np.abs(weight).reshape(-1), kind="stable"):
        if kept.sum() >= k:
            break
        kept.reshape(-1)[flat] = True
    return kept


@given(
    st.integers(1, 7),
    st.integers(1, 7),
    st.integers(1, 49),
    st.sampled_from([None, 0, 1]),
    st.integers(1, 4),
    st.integers(0, 500),
)
def test_the_kept_entries_are_those_of_the_slow_definition(
    rows: int, columns: int, k: int, axis: int | None, floor: int, seed: int
) -> None:
    weight = np.random.default_rng(seed).permutation(rows * columns).reshape(rows, columns) - rows * columns / 2 + 0.25
    ours = kept_entries(torch.tensor(weight, dtype=torch.float32), k, axis, floor)
    assert np.array_equal(ours.numpy(), kept_slowly(weight, k, axis, floor))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 100))
def test_exactly_k_of_tied_entries_are_kept_and_the_earlier_first(size: int, k: int, seed: int) -> None:
    weight = np.random.default_rng(seed).integers(-1, 2, size).astype(np.float32)
    ours = kept_entries(torch.tensor(weight), k, None, 0).numpy()
    assert ours.sum() == min(k, size)
    assert np.array_equal(ours, kept_slowly(weight, k, None, 0))


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(1, 36),
    st.sampled_from([None, 0, 1]),
    st.integers(0, 4),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.integers(0, 500),
)
def test_the_path_for_devices_and_the_fast_one_agree_with_the_definition_among_ties(
    rows: int, columns: int, k: int, axis: int | None, floor: int, dtype: torch.dtype, seed: int
) -> None:
    weight = torch.randint(-2, 3, (rows, columns), generator=torch.Generator().manual_seed(seed)).to(dtype)
    expected = kept_slowly(weight.double().numpy(), k, axis, floor)
    assert np.array_equal(kept_entries(weight, k, axis, floor).numpy(), expected)
    assert np.array_equal(kept_entries_reference(weight, k, axis if floor else None, floor).numpy(), expected)


@pytest.mark.parametrize("zeros", [0.0, 0.4, 0.9])
@pytest.mark.parametrize("k", [300, 1000, 3000])
def test_a_matrix_full_of_zeros_keeps_what_the_definition_keeps(zeros: float, k: int) -> None:
    weight = torch.randn(64, 128) * (torch.rand(64, 128) >= zeros)
    for axis in (None, 0, 1):
        expected = kept_slowly(weight.numpy(), k, axis, 4)
        assert np.array_equal(kept_entries(weight, k, axis, 4).numpy(), expected)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_the_path_for_devices_never_reads_a_value_back(axis: int | None) -> None:
    weight = torch.empty(48, 64, device="meta")  # has no values: reading one raises
    assert kept_entries(weight, 100, axis, 4).device.type == "meta"
    with pytest.raises(RuntimeError):
        weight.sum().item()


def test_autograd_sees_that_projection_changed_the_weights(tiny_sparse: Make) -> None:
    tensors = sparse_tensors(tiny_sparse())
    versions = [tensor.parameter._version for tensor in tensors]
    project(tensors, 0.1, 4)
    assert all(tensor.parameter._version > version for tensor, version in zip(tensors, versions, strict=True))


@pytest.mark.parametrize("density", [0.5, 0.1, 0.01])
def test_after_projection_every_tensor_has_the_same_kept_fraction(density: float, tiny_sparse: Make) -> None:
    model = tiny_sparse(attention_sink=True, bigram_table="learned")
    before = {name: value.clone() for name, value in model.named_parameters()}
    tensors = sparse_tensors(model)
    project(tensors, density, floor=0)
    for tensor in tensors:
        now, was = tensor.parameter.detach(), before[tensor.name]
        assert int(now.count_nonzero()) == max(1, round(density * now.numel())), tensor.name
        assert torch.equal(now[now != 0], was[now != 0])
        assert now[now != 0].abs().min() >= was[now == 0].abs().max()
    assert density_report(model)["total"] == pytest.approx(density, abs=0.01)


def test_weights_biases_and_embeddings_are_projected_and_gains_sinks_and_tables_are_not(tiny_sparse: Make) -> None:
    model = tiny_sparse(attention_sink=True, bigram_table="learned", position="added")
    dense = {name for name, _ in model.named_parameters()} - {tensor.name for tensor in sparse_tensors(model)}
    assert dense == {"bigram_table", "transformer.ln_f.weight"} | {
        f"transformer.h.{layer}.{name}"
        for layer in (0, 1)
        for name in ("ln_1.weight", "ln_2.weight", "attn.sink_logit")
    }


def test_each_kind_of_tensor_keeps_exactly_its_own_fraction_and_the_plan_counts_them(tiny_sparse: Make) -> None:
    model = tiny_sparse(position="added")
    densities = {"matrix": 0.02, "embedding": 0.0625, "head": 0.25, "bias": 1.0}
    tensors = sparse_tensors(model)
    project(tensors, densities, floor=0)
    kinds: dict[str, set[str]] = {}
    for tensor in tensors:
        kinds.setdefault(tensor.kind, set()).add(tensor.name)
        entries = tensor.parameter.numel()
        assert int(tensor.parameter.count_nonzero()) == max(1, round(densities[tensor.kind] * entries)), tensor.name
    assert kinds["embedding"] == {"transformer.wte.weight", "transformer.wpe.weight"}
    assert kinds["head"] == {"lm_head.weight"}
    assert all(name.endswith(".bias") for name in kinds["bias"])
    assert kinds["matrix"] == {
        f"transformer.h.{layer}.{name}.weight"
        for layer in (0, 1)
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    nonzero = sum(int(parameter.count_nonzero()) for parameter in model.parameters())
    assert model_size(model.config, densities, 0).nonzero == nonzero


@pytest.mark.parametrize("floor", [0, 4])
def test_the_path_for_devices_keeps_what_the_cpu_keeps_where_each_kind_of_tensor_has_its_own_density(
    floor: int, tiny_sparse: Make
) -> None:
    densities = {"matrix": 0.05, "embedding": 0.0625, "head": 0.25, "bias": 0.5}
    model = tiny_sparse(position="added")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter).mul(4).round())  # many ties
    other = copy.deepcopy(model)
    project(sparse_tensors(model), densities, floor)
    project_on_device(sparse_tensors(other), densities, floor)
    for (name, ours), theirs in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    table, head = other.transformer["wte"].weight, other.lm_head.weight
    assert table.shape == head.shape  # one batch if densities were alike
    assert int(table.count_nonzero()) == round(0.0625 * table.numel())
    assert int(head.count_nonzero()) == round(0.25 * head.numel())


@pytest.mark.parametrize("floor", [1, 4])
def test_no_neuron_or_attention_channel_falls_below_the_floor(floor: int, tiny_sparse: Make) -> None:
    model = tiny_sparse()
    project(sparse_tensors(model), 0.02, floor)
    for block in model.transformer["h"]:
        for weight, axis in (
            (block.attn.c_attn, 1),
            (block.mlp.c_fc, 1),
            (block.attn.c_proj, 0),
            (block.mlp.c_proj, 0),
        ):
            assert (weight.weight != 0).sum(axis).min() >= floor
    unprotected = tiny_sparse()
    project(sparse_tensors(unprotected), 0.02, 0)
    assert (unprotected.transformer["h"][0].mlp.c_fc.weight != 0).sum(1).min() == 0


def test_projecting_twice_changes_nothing_more(tiny_sparse: Make) -> None:
    model = tiny_sparse()
    tensors = sparse_tensors(model)
    project(tensors, 0.1, 4)
    once = [tensor.parameter.clone() for tensor in tensors]
    project(tensors, 0.1, 4)
    assert all(torch.equal(a, t.parameter) for a, t in zip(once, tensors, strict=True))


def test_density_one_touches_nothing(tiny_sparse: Make) -> None:
    model, again = tiny_sparse(), tiny_sparse()
    project(sparse_tensors(model), 1.0, 4)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_gradients_stay_dense(tiny_sparse: Make, tokens: torch.Tensor) -> None:
    model = tiny_sparse(topk_fraction=None)
    project(sparse_tensors(model), 0.1, 4)
    model(tokens, labels=tokens).loss.backward()
    weight = model.transformer["h"][0].mlp.c_fc.weight
    assert (weight == 0).float().mean() > 0.7
    assert weight.grad[weight == 0].ne(0).float().mean() > 0.3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("density", [0.1, {"matrix": 0.1, "embedding": 0.0625, "head": 0.25, "bias": 1.0}])
def test_projection_on_the_device_never_waits_for_it_and_keeps_what_the_cpu_keeps(
    density: float | dict[TensorKind, float], tiny_sparse: Make
) -> None:
    model = tiny_sparse()
    other = tiny_sparse().cuda()
    other.load_state_dict(model.state_dict())
    torch.cuda.set_sync_debug_mode("error")
    try:
        project(sparse_tensors(other), density, 4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    project(sparse_tensors(model), density, 4)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(model.parameters(), other.parameters(), strict=True))
