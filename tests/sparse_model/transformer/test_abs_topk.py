"""AbsTopK against its definition: ties, gradients, every path through the code."""

import importlib.util
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_model.transformer.abs_topk import BLOCK, _keep_largest, abs_topk, abs_topk_reference


@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 14), st.integers(0, 1000))
def test_it_equals_the_definition_on_values_full_of_ties(rows: int, width: int, k: int, seed: int) -> None:
    x = torch.randint(-3, 4, (rows, width), generator=torch.Generator().manual_seed(seed)).float()
    assert torch.equal(abs_topk(x, k), abs_topk_reference(x, k))


@pytest.mark.parametrize("rows", [0, 1, BLOCK // 512, BLOCK // 512 + 1, 3 * BLOCK // 512])
def test_rows_split_over_threads_give_the_same_as_the_definition(rows: int) -> None:
    x = torch.randn(rows, 512)
    assert torch.equal(abs_topk(x, 8), abs_topk_reference(x, 8))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_what_is_dropped_is_plus_zero_whatever_it_was(dtype: torch.dtype) -> None:
    x = torch.tensor([[-0.0, -1.0, torch.inf, 2.0], [torch.nan, -torch.inf, 3.0, -4.0]], dtype=dtype)
    kept = abs_topk(x, 1)
    assert kept.isnan().tolist() == [[False] * 4, [True, False, False, False]]
    assert kept.nan_to_num(posinf=9).tolist() == [[0, 0, 9, 0], [0, 0, 0, 0]]
    assert not kept.signbit()[:, 1:].any()
    gradient = torch.full_like(x, -torch.inf)
    x.requires_grad_()
    (passed,) = torch.autograd.grad(abs_topk(x, 1), x, gradient)
    assert torch.equal(passed.isinf(), torch.tensor([[False, False, True, False], [True, False, False, False]]))
    assert not passed.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_exactly_k_channels_of_largest_magnitude_survive_unchanged(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 40, dtype=torch.float64).to(dtype)
    kept = abs_topk(x, 10)
    assert kept.dtype == dtype
    assert torch.equal((kept != 0).sum(-1), torch.full((2, 3), 10))
    assert torch.equal(kept[kept != 0], x[kept != 0])
    assert kept.abs().masked_fill(kept == 0, torch.inf).amin(-1).ge(x.abs().masked_fill(kept != 0, 0).amax(-1)).all()


def test_ties_go_to_the_lower_channel() -> None:
    assert abs_topk(torch.tensor([1.0, -2.0, 2.0, -1.0, 2.0]), 2).tolist() == [0, -2, 2, 0, 0]


@pytest.mark.parametrize("k", [5, 6, 100])
def test_k_of_the_whole_width_or_more_changes_nothing(k: int) -> None:
    x = torch.randn(3, 5, requires_grad=True)
    assert abs_topk(x, k) is x


def test_the_gradient_passes_through_kept_channels_and_no_others() -> None:
    x = torch.randn(4, 300, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 300, 16, dtype=torch.float64)
    (ours,) = torch.autograd.grad((abs_topk(x, 4) * weight).sum(), x)
    (reference,) = torch.autograd.grad((abs_topk_reference(x, 4) * weight).sum(), x)
    assert torch.equal(ours, reference)
    assert torch.equal(ours != 0, abs_topk(x, 4) != 0)


@pytest.mark.parametrize("width", [512, 20])
def test_the_backward_pass_keeps_a_bit_an_entry_and_nothing_else(width: int) -> None:
    x = torch.randn(7, 30, width, requires_grad=True)
    saved: dict[str, list[torch.Tensor]] = {"ours": [], "definition": []}
    for name, keep in (("ours", abs_topk), ("definition", abs_topk_reference)):
        with torch.autograd.graph.saved_tensors_hooks(lambda t, name=name: saved[name].append(t) or t, lambda t: t):
            kept = keep(x, width // 4)
        kept.sum().backward()
    ours, definition = (sum(t.nbytes for t in tensors) for tensors in saved.values())
    assert ours == 7 * 30 * -(-width // 8)
    assert definition >= 7 * 30 * width


def test_the_gradient_is_the_numerical_one_away_from_ties() -> None:
    x = (torch.randperm(24).double().reshape(3, 8) + 1) * torch.randn(3, 8).sign()
    assert torch.autograd.gradcheck(lambda value: abs_topk(value, 3), (x.requires_grad_(),))


def test_inputs_that_are_not_contiguous_are_read_in_their_own_order() -> None:
    x = torch.randn(8, 6).T
    assert torch.equal(abs_topk(x, 3), abs_topk_reference(x.contiguous(), 3))


def test_a_cpu_tensor_never_brings_in_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["sparse_model.transformer.abs_topk"]
    monkeypatch.setattr(module, "_gpu_kernel", lambda: pytest.fail("Triton was looked for"))
    abs_topk(torch.randn(4, 8), 2)
    assert "sparse_model.transformer.abs_topk_triton" not in sys.modules or importlib.util.find_spec("triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_to_the_compiler_it_is_one_operation_of_the_same_values_and_gradient(dtype: torch.dtype) -> None:
    compiled = torch.compile(lambda x, k: _keep_largest(x, k)[0], backend="aot_eager", fullgraph=True)
    for x in (torch.randint(-3, 4, (3, 2, 40)).to(dtype), torch.randn(3, 40, 2).to(dtype).transpose(1, 2)):
        gradient, found = torch.randn_like(x), []
        for keep in (compiled, abs_topk):
            inputs = x.detach().clone().requires_grad_()
            kept = keep(inputs, 10)
            found.append((kept.detach(), *torch.autograd.grad(kept, inputs, gradient)))
        for ours, theirs in zip(*found, strict=True):
            assert torch.equal(ours, theirs)
