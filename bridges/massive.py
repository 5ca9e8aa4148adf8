"""Massive activations: what a stream's NMSE says without its first position and its few giant channels.

In many pretrained models the first position of a text, whatever token stands there, has a stream hundreds of times longer than
all others (an attention sink), and a few channels carry most of the variance everywhere. An NMSE over everything then says
whether those were hit, and little else: at layer 15 of SmolLM2 a prediction that is right at the first position and the
mean elsewhere has NMSE 0.001. So every NMSE is reported three ways: of all, of the positions after the first, and of these
in the ordinary channels alone.

A channel c is *massive* where, over the positions after the first, E h_c² ≥ 100 · median over channels of E h².
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bridges.losses import nmse

MASSIVE = 100.0
"""Mean square of a massive channel over the median channel's, at least."""


def after_first(h: Float[Tensor, "B T W"]) -> Float[Tensor, "B t W"]:
    """The stream without its first position; sequences of one token keep it, for they have no other."""
    return h[:, 1:] if h.shape[1] > 1 else h


def massive_channels(h: Float[Tensor, "B T W"]) -> Bool[Tensor, " W"]:
    """Which channels of a stream are massive."""
    power = after_first(h).float().square().mean((0, 1))
    return power >= MASSIVE * power.median().clamp(min=torch.finfo(power.dtype).tiny)


def first_over_rest(h: Float[Tensor, "B T W"]) -> float:
    """RMS of the stream at the first position over that at all others; far above 1 where the first is a sink."""
    first, rest = (part.float().square().mean().sqrt() for part in (h[:, :1], after_first(h)))
    return float(first / rest.clamp(min=1e-12))


def mean_rms(h: Float[Tensor, "B T W"]) -> Float[Tensor, ""]:
    """RMS of a stream over channels, averaged over tokens: the unit a bridge is trained in."""
    return h.float().square().mean(-1).sqrt().mean()


def nmse_three_ways(
    prediction: Float[Tensor, "B T W"], target: Float[Tensor, "B T W"], massive: Bool[Tensor, " W"]
) -> Mapping[str, float]:
    """NMSE of everything (key ``), after the first position (`_later`), and there in ordinary channels (`_ordinary`)."""
    later = after_first(prediction), after_first(target)
    return {
        "": nmse(prediction, target).item(),
        "_later": nmse(*later).item(),
        "_ordinary": nmse(*(part[..., ~massive] for part in later)).item(),
    }
