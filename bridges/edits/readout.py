"""What a standing edit reads off a dense stream: a few rows of an encoder, through AbsTopK over all of its rows as f_i has it.

A readout without a gate is linear: a dense coordinate, or the component along a direction.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bridges.bridge import Bridge
from sparse_model.transformer.abs_topk import abs_topk


@dataclass(frozen=True)
class TopKGate:
    """The whole encoder at a site: rows [S, D], bias [S], and how many channels AbsTopK keeps."""

    encoder: Float[Tensor, "S D"]
    bias: Float[Tensor, " S"]
    k: int
    channels: Int[Tensor, " n"]
    """which of its rows are read"""


@dataclass(frozen=True)
class Readout:
    """n numbers read off a stream: rows [n, D] and bias [n], or, with a gate, the gate's channels after AbsTopK."""

    encoder: Float[Tensor, "n D"]
    bias: Float[Tensor, " n"]
    gate: TopKGate | None = None

    def __call__(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B n"]:
        """z of a dense stream."""
        if self.gate is None:
            return h @ self.encoder.T + self.bias
        whole = abs_topk(h @ self.gate.encoder.T + self.gate.bias, self.gate.k)
        return whole[..., self.gate.channels]

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        gate = self.gate
        if gate is not None:
            gate = TopKGate(gate.encoder.to(device), gate.bias.to(device), gate.k, gate.channels.to(device))
        return replace(self, encoder=self.encoder.to(device), bias=self.bias.to(device), gate=gate)


def channels_of(bridge: Bridge, place: int, channels: tuple[int, ...]) -> tuple[Readout, Float[Tensor, "n D"]]:
    """The readout of some sparse channels at a place, and what writes them: their decoder rows [n, D]."""
    encoder, decoder = bridge.encoders[place], bridge.decoders[place]
    index = torch.tensor(channels, device=encoder.weight.device)
    rows, bias = encoder.weight.detach(), encoder.bias.detach()
    gate = None if bridge.k >= bridge.d_sparse else TopKGate(rows, bias, bridge.k, index)
    return Readout(rows[index], bias[index], gate), decoder.weight.detach()[:, index].T


def coordinates_of(indices: Int[Tensor, " n"], D: int) -> tuple[Readout, Float[Tensor, "n D"]]:
    """Dense coordinates, read and written as they are."""
    rows = torch.eye(D, device=indices.device)[indices]
    return Readout(rows, torch.zeros(len(rows), device=indices.device)), rows


def direction_of(direction: Float[Tensor, " D"]) -> tuple[Readout, Float[Tensor, "1 D"]]:
    """The component along one direction."""
    unit = (direction / direction.norm().clamp(min=1e-12))[None]
    return Readout(unit, torch.zeros(1, device=direction.device)), unit
