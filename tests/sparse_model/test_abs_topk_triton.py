"""The GPU kernel against the definition: in Triton's interpreter on any machine, and on the device where there is one."""

import os
import subprocess
import sys

import pytest
import torch

ON_GPU = torch.cuda.is_available()  # without one, conftest asks Triton for its interpreter
pytest.importorskip("triton", reason="Triton is not installed")

from sparse_model.abs_topk import abs_topk, abs_topk_reference  # noqa: E402
from sparse_model.abs_topk_triton import WIDEST, AbsTopKTriton, serves  # noqa: E402

DEVICE = "cuda" if ON_GPU else "cpu"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def both(x: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values and gradients, the kernel's first."""
    upstream = torch.randn_like(x)
    found = []
    for function in (AbsTopKTriton.apply, abs_topk_reference):
        leaf = x.detach().clone().requires_grad_()
        y = function(leaf, k)
        (gradient,) = torch.autograd.grad(y, leaf, upstream)
        found += [y.detach(), gradient]
    return found[0], found[2], found[1], found[3]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "k"), [(2, 1), (7, 3), (33, 32), (64, 1), (100, 25), (256, 64)])
def test_the_kernel_is_the_definition_in_values_and_gradient(width: int, k: int, dtype: torch.dtype) -> None:
    y, y_reference, gradient, gradient_reference = both(torch.randn(5, width, device=DEVICE).to(dtype), k)
    assert torch.equal(y, y_reference)
    assert torch.equal(gradient, gradient_reference)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 4, 9, 18])
def test_ties_zeros_among_them_go_to_the_lower_channel_forward_and_back(k: int, dtype: torch.dtype) -> None:
    x = torch.randint(-1, 2, (24, 19), device=DEVICE).to(dtype)
    x[0] = 0
    y, y_reference, gradient, gradient_reference = both(x, k)
    assert torch.equal(y, y_reference)
    assert torch.equal(gradient, gradient_reference)
    assert torch.equal(gradient[0] != 0, torch.arange(19, device=DEVICE) < k)


def test_infinities_and_subnormals_are_ranked_as_magnitudes() -> None:
    x = torch.tensor([[1e-45, -torch.inf, 3.0, -1e-44, 0.0]], device=DEVICE)
    assert torch.equal(AbsTopKTriton.apply(x, 3), torch.where(torch.arange(5, device=DEVICE) == 0, 0, x))
    assert torch.equal(AbsTopKTriton.apply(x, 2), abs_topk_reference(x, 2))


def test_slices_and_transposes_are_read_in_their_own_order() -> None:
    qkv = torch.randn(2, 6, 3 * 16, device=DEVICE)
    for x in (*qkv.split(16, dim=-1), torch.randn(16, 6, device=DEVICE).T):
        assert torch.equal(AbsTopKTriton.apply(x, 5), abs_topk_reference(x, 5))


def test_no_rows_give_no_rows() -> None:
    assert AbsTopKTriton.apply(torch.empty(0, 8, device=DEVICE), 2).shape == (0, 8)


def test_double_precision_and_rows_too_wide_for_registers_are_left_to_the_definition() -> None:
    assert not serves(torch.empty(1, 8, dtype=torch.float64))
    assert not serves(torch.empty(1, WIDEST + 1))
    assert serves(torch.empty(1, WIDEST, dtype=torch.bfloat16))


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sparse_model.abs_topk_triton import _keep, _pass_back
for kind, bits in (("fp32", 32), ("bf16", 16), ("fp16", 16)):
    types = {"cut_start": "*i32", "width": "i32", "stride": "i32", "k": "i32", "BITS": "constexpr", "BLOCK": "constexpr"}
    for kernel in (_keep, _pass_back):
        signature = {name: types.get(name, "*" + kind) for name in kernel.arg_names}
        source = ASTSource(fn=kernel, signature=signature, constexprs={"BITS": bits, "BLOCK": 128})
        assert triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1}).asm["cubin"]
"""


def test_both_kernels_compile_for_a_gpu_that_is_not_here() -> None:
    real = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run([sys.executable, "-c", COMPILE], env=real, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not ON_GPU, reason="no CUDA device")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 100, 2048, 8192, WIDEST])
def test_on_the_device_abs_topk_takes_the_kernel_and_keeps_the_definition(width: int, dtype: torch.dtype) -> None:
    x = torch.randn(64, width, device="cuda").to(dtype)
    torch.cuda.set_sync_debug_mode("error")
    try:
        y = abs_topk(x, width // 4)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert "sparse_model.abs_topk_triton" in sys.modules
    assert torch.equal(y, abs_topk_reference(x, width // 4))
    wide = torch.randn(64, WIDEST + 1, device="cuda").to(dtype)
    assert torch.equal(abs_topk(wide, 5), abs_topk_reference(wide, 5))
