"""Packed weights: nothing rounded, small, and refused when damaged."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foundation.artefacts import save_tensors
from foundation.errors import UserError
from sparse_model import SparseTransformer
from sparse_model.training.projection import project, sparse_tensors
from sparse_model.transformer.model import WEIGHTS_NAME
from sparse_model.transformer.packed import pack, unpack


@given(
    st.lists(st.integers(0, 6), max_size=3),
    st.floats(0, 1),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_unpacking_gives_every_bit_back(shape: list[int], density: float, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(len(shape))
    tensor = torch.randn(shape, generator=generator).to(dtype) * (torch.rand(shape, generator=generator) < density)
    state = {"a.weight": tensor, "count": torch.tensor(3), "ids": torch.arange(4)}
    again = unpack(pack(state))
    assert set(again) == set(state)
    assert all(torch.equal(again[name], state[name]) and again[name].dtype == state[name].dtype for name in state)


def test_packing_pays_below_and_is_left_out_above_its_limit() -> None:
    sparse, dense = torch.zeros(100), torch.ones(100)
    sparse[7] = -0.5
    packed = pack({"sparse": sparse, "dense": dense})
    assert set(packed) == {"sparse.values", "sparse.places", "sparse.shape", "dense"}
    assert packed["sparse.values"].tolist() == [-0.5]
    assert packed["sparse.places"].tolist() == [7]


def test_at_one_per_cent_a_whole_model_is_twenty_times_smaller_than_its_dense_file_and_loads_the_same(
    tiny_sparse: Callable[..., SparseTransformer], tokens: torch.Tensor, tmp_path: Path
) -> None:
    model = tiny_sparse(d_model=256, d_mlp=1024, n_head=16, d_head=16, vocab_size=1024)
    project(sparse_tensors(model), 0.01, floor=4)
    save_tensors(tmp_path / "dense.safetensors", model.state_dict())
    model.save_pretrained(tmp_path)
    dense, sparse = ((tmp_path / name).stat().st_size for name in ("dense.safetensors", WEIGHTS_NAME))
    assert sparse < dense / 20
    again = SparseTransformer.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model.eval()(tokens).logits)


@pytest.mark.parametrize("damage", ["places", "shape", "beyond"])
def test_parts_that_do_not_belong_together_are_refused(damage: str) -> None:
    tensor = torch.zeros(10, 10)
    tensor[2, 3] = 1
    packed = pack({"w": tensor})
    if damage == "beyond":
        packed["w.places"] = torch.tensor([100], dtype=torch.int32)
    else:
        del packed[f"w.{damage}"]
    with pytest.raises(UserError, match="'w' are damaged"):
        unpack(packed)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_truncated_weights_file_is_refused_in_one_line(
    kept: float, tiny_sparse: Callable[..., SparseTransformer], tmp_path: Path
) -> None:
    tiny_sparse().save_pretrained(tmp_path)
    weights = tmp_path / WEIGHTS_NAME
    weights.write_bytes(weights.read_bytes()[: int(kept * weights.stat().st_size)])
    with pytest.raises(UserError, match="truncated or damaged") as caught:
        SparseTransformer.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_refused(tiny_sparse: Callable[..., SparseTransformer], tmp_path: Path) -> None:
    tiny_sparse().save_pretrained(tmp_path)
    tiny_sparse(d_mlp=48).config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="do not fit"):
        SparseTransformer.from_pretrained(tmp_path)
