"""RMSNorm with written-out gradients, against torch's."""

import pytest
import torch
from torch import Tensor, nn

from sparse_model.transformer.rms_norm import RMSNorm


def both(x: Tensor, upstream: Tensor, eps: float | None = None) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Value and gradients of the stream and of the gain, ours first."""
    found = []
    for kind in (RMSNorm, nn.RMSNorm):
        norm, leaf = kind(x.shape[-1], eps=eps, dtype=x.dtype), x.detach().clone().requires_grad_()
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(0.5, 2, x.shape[-1]))
        y = norm(leaf)
        found.append((y.detach(), *torch.autograd.grad(y, (leaf, norm.weight), upstream)))
    return found


@pytest.mark.parametrize("eps", [None, 1e-2])
def test_values_are_torchs_bit_for_bit_and_gradients_to_rounding(eps: float | None) -> None:
    x = torch.randn(3, 50, 24) * torch.logspace(-6, 3, 50)[:, None]
    ours, theirs = both(x, torch.randn(3, 50, 24), eps)
    assert torch.equal(ours[0], theirs[0])
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_gradients_are_those_of_the_definition_in_double_precision_and_second_ones_are_refused() -> None:
    x, norm = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True), RMSNorm(5, dtype=torch.float64)

    def run(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(norm, {"weight": gain}, (x,))

    gain = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, gain))
    (first,) = torch.autograd.grad(run(x, gain).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_precisions_are_left_to_torch(dtype: torch.dtype) -> None:
    ours, theirs = both(torch.randn(2, 3, 8).to(dtype), torch.randn(2, 3, 8).to(dtype))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def test_the_stream_and_no_second_tensor_of_its_size_is_kept() -> None:
    x = torch.randn(4, 8, 16, requires_grad=True)
    kept: dict[str, int] = {}
    for kind in (RMSNorm, nn.RMSNorm):
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
            kind(16)(x)
        kept[kind.__module__] = len({t.data_ptr() for t in saved if t.numel() == x.numel()})
    assert kept["sparse_model.transformer.rms_norm"] == 1
    assert kept["torch.nn.modules.normalization"] > 1
