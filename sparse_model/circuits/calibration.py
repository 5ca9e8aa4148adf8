"""Calibration: scale and shift of the logit difference between answers a and b.

Which answer a circuit gives is one thing, how loudly another: a few nodes tell the answers apart at any logit scale, and
many more only bring the difference to the size that a binary loss asks for. So a decision about a circuit fits both
numbers on training pairs first and asks for the loss of the calibrated difference on other pairs.

1. loss = mean softplus(−sign · (scale · x + shift)), x = logit a − logit b, sign +1 where a is right and −1 where b is
2. in units u = scale · RMS(x) minimise loss + RIDGE/2 · (u² + shift²), u ≥ 0: damped Newton, all candidates at once

The ridge keeps pairs that a circuit separates from driving the scale to infinity. A scale below zero would turn a
circuit that gives the wrong answer into one that is right, so it stops at zero, where the loss is that of chance. Without
a bound above, pruning goes on to circuits that say a twentieth of what the model says and are amplified: small, but not what
does the task. `max_scale` bounds it.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

RIDGE = 1e-3
"""Weight of the squared scale, in units of 1/RMS(x), and the squared shift; nats. Separable pairs come to u ≈ 5."""
STEPS = 30
"""At most so many Newton steps; about six are needed."""
_DAMPING = (1.0, 0.5, 0.25, 0.0625, 0.0)
_FLAT = 1e-7


@dataclass(frozen=True)
class Calibration:
    """Scale and shift of the logit difference between answers a and b (1 and 0: none)."""

    scale: float = 1.0
    shift: float = 0.0

    def margin(self, right_minus_wrong: Float[Tensor, "*k M"]) -> Float[Tensor, "*k M"]:
        """The calibrated right minus wrong logit of M/2 a prompts, then M/2 b prompts."""
        return self.scale * right_minus_wrong + self.shift * answer_signs(right_minus_wrong)

    def loss(self, right_minus_wrong: Float[Tensor, "*k M"]) -> Float[Tensor, "*k"]:
        """Binary loss in nats of M/2 a prompts, then M/2 b prompts."""
        return F.softplus(-self.margin(right_minus_wrong)).mean(-1)


def answer_signs(right_minus_wrong: Float[Tensor, "*k M"]) -> Float[Tensor, " M"]:
    """+1 for the first half of the prompts, whose right answer is a, −1 for the others."""
    signs = torch.ones_like(right_minus_wrong.detach().reshape(-1, right_minus_wrong.shape[-1])[0])
    signs[len(signs) // 2 :] = -1
    return signs


@torch.no_grad()
def fitted(right_minus_wrong: Float[Tensor, " M"], max_scale: float = math.inf) -> Calibration:
    """The calibration of M/2 a prompts, then M/2 b prompts, with the least loss (and ridge) at a scale of at most `max_scale`."""
    scale, shift = fit(right_minus_wrong[None], max_scale)
    return Calibration(float(scale), float(shift))


@torch.no_grad()
def fit(
    right_minus_wrong: Float[Tensor, "k M"], max_scale: float = math.inf
) -> tuple[Float[Tensor, " k"], Float[Tensor, " k"]]:
    """Scale and shift of k candidates at once, in double precision."""
    difference = right_minus_wrong.double()
    sign = answer_signs(difference)
    size = difference.square().mean(1, keepdim=True).sqrt().clamp_min(torch.finfo(difference.dtype).tiny)
    z = difference / size  # sign · x over its RMS
    most = max_scale * size  # of u
    u, shift = (torch.zeros(len(z), 1, dtype=z.dtype, device=z.device) for _ in range(2))
    damping = torch.tensor(_DAMPING, dtype=z.dtype, device=z.device)
    for _ in range(STEPS):
        wrong = torch.sigmoid(-(u * z + shift * sign))
        curvature = wrong * (1 - wrong)
        to_u = RIDGE * u - (wrong * z).mean(1, keepdim=True)
        to_shift = RIDGE * shift - (wrong * sign).mean(1, keepdim=True)
        at_bound = ((u <= 0) & (to_u > 0)) | ((u >= most) & (to_u < 0))
        if bool(((to_u.abs() < _FLAT) | at_bound).all() and (to_shift.abs() < _FLAT).all()):
            break
        uu = RIDGE + (curvature * z * z).mean(1, keepdim=True)
        ss = RIDGE + curvature.mean(1, keepdim=True)
        us = (curvature * z * sign).mean(1, keepdim=True).masked_fill(at_bound, 0)
        to_u = to_u.masked_fill(at_bound, 0)
        determinant = uu * ss - us * us
        tried_u = (u - damping * (ss * to_u - us * to_shift) / determinant).clamp_min(0).minimum(most)
        tried_shift = shift - damping * (uu * to_shift - us * to_u) / determinant
        margins = tried_u[:, :, None] * z[:, None] + tried_shift[:, :, None] * sign
        cost = F.softplus(-margins).mean(2) + RIDGE / 2 * (tried_u.square() + tried_shift.square())
        best = cost.argmin(1, keepdim=True)
        u, shift = tried_u.gather(1, best), tried_shift.gather(1, best)
    return (u / size)[:, 0], shift[:, 0]
