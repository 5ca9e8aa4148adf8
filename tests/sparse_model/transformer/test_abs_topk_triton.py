"""The GPU kernel against the definition: in Triton's interpreter on any machine, and on the device where there is one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ON_GPU = torch.cuda.is_available()  # without one, conftest asks Triton for its interpreter
triton = pytest.importorskip("triton", reason="Triton is not installed")

from sparse_model.transformer import abs_topk_triton  # noqa: E402
from sparse_model.transformer.abs_topk import abs_topk, abs_topk_reference  # noqa: E402
from sparse_model.transformer.abs_topk_triton import WIDEST, AbsTopKTriton, serves  # noqa: E402

MAKEFILE = Path(__file__).parents[3] / "Makefile"
COUNTED_WITH = MAKEFILE.read_text("utf-8").partition("TRITON := triton==")[2].split()[0]
"""Another version of Triton schedules other instructions, and CUDA builds of torch bring one of their own."""
DEVICE = "cuda" if ON_GPU else "cpu"
BITS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
DTYPES = list(BITS)


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


SPECIAL = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-45, -1e-40, 6e-8, 3e38, 65504.0, 1.0, -1.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_no_guess_suits_are_ranked_all_the_same_after_a_bounded_number_of_counts(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = abs_topk_triton._reaching
    counts: list[None] = []
    if not ON_GPU:  # the interpreter looks the name up at every call; a compiled kernel would not know the lambda
        monkeypatch.setattr(abs_topk_triton, "_reaching", lambda *of: (counts.append(None), count(*of))[1])
    for width in (5, 16, 97):
        octaves = 2.0 ** torch.linspace(-140, 120, width)
        rows = torch.stack(
            [
                torch.tensor(SPECIAL).repeat(9)[:width],
                octaves,
                -octaves.flip(0),
                torch.full((width,), 3.0),
                torch.where(torch.arange(width) == width // 2, 1e30, 1e-30),
                torch.randn(width) * torch.randn(width).mul(20).exp(),
            ]
        ).to(dtype)
        for k in (1, width // 2, width - 1):
            for row in rows.to(DEVICE):
                counts.clear()
                y, y_reference, gradient, gradient_reference = both(row[None], k)
                assert torch.equal(y.view(BITS[dtype]), y_reference.view(BITS[dtype]))
                assert torch.equal(gradient, gradient_reference)
                if not ON_GPU:
                    assert 0 < len(counts) < 4 * 31 + 4 * 6


def test_the_kernel_compiles_for_a_gpu_that_is_not_here_and_leaves_half_the_speed_of_a_copy() -> None:
    if triton.__version__ != COUNTED_WITH:
        pytest.skip(f"instructions are counted with Triton {COUNTED_WITH}; here is {triton.__version__}")
    benchmark = Path(__file__).parents[3] / "benchmarks" / "abs_topk_kernel.py"
    ran = subprocess.run(
        [sys.executable, str(benchmark), "--rows", "8", "--check"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


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
    assert "sparse_model.transformer.abs_topk_triton" in sys.modules
    assert torch.equal(y, abs_topk_reference(x, width // 4))
    wide = torch.randn(64, WIDEST + 1, device="cuda").to(dtype)
    assert torch.equal(abs_topk(wide, 5), abs_topk_reference(wide, 5))
