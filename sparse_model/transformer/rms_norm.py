"""RMSNorm with its gradients written out: y = g·r·x with r = 1/√(mean x² + ε), over the channels.

On a CPU torch composes it of elementwise operators, whose backward pass goes a dozen times through memory, and which keep
the normalised stream beside the stream. Written out,

    t = ∂y·x,   ∂g = Σ r·t,   ∂x = r·(g·∂y) − x·r³/W·(t·g)

takes four passes and keeps the stream alone. Values are torch's own, bit for bit. GPUs, compiled graphs and mixed precisions take
torch's, which is one kernel there.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class RMSNorm(nn.RMSNorm):
    """`torch.nn.RMSNorm` over the last axis; on a CPU with a cheaper backward pass."""

    def forward(self, x: Float[Tensor, "*B W"]) -> Float[Tensor, "*B W"]:
        """The normalised x times the gain."""
        alike = type(x) is Tensor and x.device.type == "cpu" and x.dtype == self.weight.dtype
        if not alike or x.dtype not in (torch.float32, torch.float64) or torch.compiler.is_compiling():
            return super().forward(x)
        if not torch.is_grad_enabled():
            return super().forward(x)
        y: Tensor = _RmsNorm.apply(x, self.weight, torch.finfo(x.dtype).eps if self.eps is None else self.eps)
        return y


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        scale = x.pow(2).mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(x, gain, scale)
        return x.mul(scale).mul_(gain)

    @staticmethod
    @once_differentiable  # `scale` is kept as a number, so that a second derivative would be wrong
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain, scale = ctx.saved_tensors
        width = x.shape[-1]
        rows, upstream, scale = x.reshape(-1, width), gradient.reshape(-1, width), scale.reshape(-1)
        product = upstream * rows
        along = torch.mv(product, gain).mul_(scale.pow(3)).div_(-width)
        of_x = (upstream * gain).mul_(scale[:, None]).addcmul_(rows, along[:, None])
        return of_x.view(x.shape), torch.mv(product.T, scale), None
