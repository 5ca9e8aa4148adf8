"""What needs no bridge: edits of the dense stream at the circuit's place and positions, with its norm at every token.

class mean        the mean difference of the classes at the same distance from the end of the prompt
coordinates       the pair's own difference on the dense coordinates that differ most, as many as the circuit has channels
directions        the pair's own difference within the leading directions of the differences; how many is chosen on validation

All are fitted on training pairs, direction by direction, and tuned on the validation pairs the circuit's place was chosen on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bridges.validation.contrast import Contrast, Streams, masked
from bridges.validation.effects import Shares
from bridges.validation.node_sets import scaled_like
from foundation.statistics import Estimate, from_resamples

Make = Callable[[Contrast, Tensor], Tensor]
"""From a contrast and its differences [M, T, D] at the place to a change [M, T, D]."""


@dataclass(frozen=True)
class Baseline:
    """An edit without a bridge: its effect at the circuit's norm, at its own, and how much more the circuit does."""

    name: str
    effect: Estimate
    natural: Estimate
    """at the norm the baseline has by itself"""
    circuit_ahead: Estimate
    """circuit − baseline at equal norm"""
    chosen: int | None = None
    """number of coordinates or directions"""

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            name: value.to_json() if isinstance(value, Estimate) else value for name, value in self.__dict__.items()
        }


def baselines(
    site: int,
    channels: int,
    train: Streams,
    validation: tuple[Streams, Float[Tensor, "N U D"]],
    held_out: tuple[Streams, Float[Tensor, "M T D"]],
    seed: int = 0,
) -> list[Baseline]:
    """All three, at a dense site.

    Args:
        channels: how many stream channels the circuit has there.
        validation, held_out: streams with the circuit's dense change, whose norm is matched.
    """
    found = []
    for name, candidates in _candidates(site, channels, train).items():
        number = max(candidates, key=lambda n: float(_effect(site, *validation, candidates[n], seed)[0]))
        mine = Shares(held_out[0], seed=seed).resampled(held_out[0].edited(site, held_out[1][None])[0])
        scaled = _effect(site, *held_out, candidates[number], seed)
        natural = _effect(site, *held_out, candidates[number], seed, natural=True)
        found.append(
            Baseline(
                name,
                from_resamples(scaled),
                from_resamples(natural),
                from_resamples(mine - scaled),
                None if name == "class_mean" else number,
            )
        )
    return found


def _candidates(site: int, channels: int, train: Streams) -> dict[str, Mapping[int, Make]]:
    contrast = train.contrast
    gap = masked(train.difference(site), contrast.counted)
    D = gap.shape[-1]
    means = {name: _mean_from_the_end(contrast, gap, rows) for name, rows in contrast.directions.items()}
    most = gap.abs().mean((0, 1)).topk(min(channels, D)).indices
    counted = gap[contrast.counted]
    _, _, leading = torch.linalg.svd(counted.double(), full_matrices=False)
    sizes = sorted({min(n, len(leading)) for n in (1, 2, 4, 8, channels)})

    def class_mean(other: Contrast, difference: Tensor) -> Tensor:
        change = torch.zeros_like(difference)
        for name, rows in other.directions.items():
            change[rows] = _placed_from_the_end(other, means[name], rows, difference.shape[1])
        return change

    def coordinates(_: Contrast, difference: Tensor) -> Tensor:
        change = torch.zeros_like(difference)
        change[..., most] = difference[..., most]
        return change

    def directions(n: int) -> Make:
        basis = leading[:n].to(gap)
        return lambda _, difference: difference @ basis.T @ basis

    return {
        "class_mean": {1: class_mean},
        "coordinates": {len(most): coordinates},
        "directions": {n: directions(n) for n in sizes},
    }


@torch.no_grad()
def _effect(site: int, streams: Streams, circuit: Tensor, make: Make, seed: int, natural: bool = False) -> np.ndarray:
    change = masked(make(streams.contrast, streams.difference(site)), streams.contrast.counted)
    if not natural:
        change = scaled_like(change, circuit)
    return Shares(streams, seed=seed).resampled(streams.edited(site, change[None])[0])


def _distance(contrast: Contrast, width: int) -> Tensor:
    """0 at the last token, 1 before it; negative in the padding."""
    return contrast.last[:, None] - torch.arange(width, device=contrast.last.device)[None]


def _mean_from_the_end(contrast: Contrast, gap: Tensor, rows: slice) -> Float[Tensor, "T D"]:
    """Mean difference by distance from the last token (row 0), over the prompts of one direction."""
    place = _distance(contrast, gap.shape[1])[rows]
    counted = contrast.counted[rows]
    values, at = gap[rows][counted], place[counted]
    total = gap.new_zeros(gap.shape[1:]).index_add_(0, at, values)
    return total / torch.bincount(at, minlength=len(total)).clamp(min=1)[:, None]


def _placed_from_the_end(contrast: Contrast, mean: Tensor, rows: slice, width: int) -> Tensor:
    place = _distance(contrast, width)[rows]
    inside = (place >= 0) & (place < len(mean))
    return mean[place.clamp(0, len(mean) - 1)] * inside[..., None]
