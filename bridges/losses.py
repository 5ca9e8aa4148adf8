"""Pure loss functions: M2, and the KL whose many-stream form is in `bridges.distillation`."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def nmse(prediction: Float[Tensor, "B T W"], target: Float[Tensor, "B T W"]) -> Float[Tensor, ""]:
    """Normalised mean squared error E‖p − t‖² / E‖t − mean t‖² (1 = predicting the mean).

    The denominator is detached; detach the target yourself where it must not learn.
    """
    target_mean = target.detach().mean((0, 1)).expand_as(target)
    spread = F.mse_loss(target.detach(), target_mean)  # `var` over the leading axes takes three times as long on a CPU
    return F.mse_loss(prediction, target) / spread.clamp(min=1e-12 / target.shape[-1])


def kl_per_token(target: Float[Tensor, "*B V"], logits: Float[Tensor, "*B V"]) -> Float[Tensor, "*B"]:
    """Exact KL(target ‖ softmax logits) in nats, per token, in fp32 or better.

    Args:
        target: log-probabilities; they get no gradient.
    """
    per_token: Tensor = _Kl.apply(target.detach(), logits)
    return per_token


class _Kl(torch.autograd.Function):
    """Keeps the logits alone, and makes their softmax again in the backward pass: ∂KL/∂logits = softmax − target."""

    @staticmethod
    def forward(ctx: Any, target: Tensor, logits: Tensor) -> Tensor:
        ctx.save_for_backward(target, logits)
        target = _precise(target)
        difference = F.log_softmax(_precise(logits), dim=-1).neg_().add_(target)
        return difference.mul_(target.exp()).sum(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        target, logits = ctx.saved_tensors
        difference = F.softmax(_precise(logits), dim=-1).sub_(_precise(target).exp())
        return None, difference.mul_(gradient[..., None]).to(logits.dtype)


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
