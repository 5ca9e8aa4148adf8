"""Planted truths (METHOD §6): dense stacks that compute what a sparse model computes, with the exact bridge between them.

rotated    the stream turned by a random orthogonal matrix
deeper     turned, with idle sublayers in between, so that depths differ
centred    turned into a wider stream that carries a large mean, which is taken out before every sublayer as a LayerNorm does

A judge that calls a circuit of the sparse model no explanation of these is blind.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bridges.alignment import AlignedSite, SiteAlignment
from bridges.bridge import Bridge
from sparse_model.transformer.model import SparseTransformer, SparseWalk

Plant = Literal["rotated", "deeper", "centred"]
PLANTS: tuple[Plant, ...] = ("rotated", "deeper", "centred")
MEAN = 3.0
"""What every channel of a centred plant's stream carries besides, in units of its own."""
EXTRA = 8
"""Channels a centred plant's stream is wider by."""


@dataclass(frozen=True)
class PlantedSublayer:
    """A sublayer of the sparse model, or an idle one (`source` None)."""

    kind: Literal["attention", "mlp"]
    layer: int
    source: int | None


class PlantedStack:
    """A residual stack whose stream is the sparse model's, seen through E [S, D]: h^d = h^s E (+ mean)."""

    def __init__(self, sparse: SparseTransformer, plant: Plant, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.sparse, self.plant = sparse, plant
        S, device = sparse.d_model, sparse.device
        D = S + EXTRA if plant == "centred" else S
        drawn = torch.randn(D, D, generator=generator, dtype=torch.float64)
        if plant == "centred":  # the first column spans the mean; what follows is orthogonal to it
            drawn[:, 0] = 1.0
            basis = torch.linalg.qr(drawn).Q[:, 1 : S + 1]
        else:
            basis = torch.linalg.qr(drawn).Q
        self.embed = basis.T.float().to(device)
        self.mean = MEAN if plant == "centred" else 0.0
        sublayers: list[PlantedSublayer] = []
        for source, own in enumerate(sparse.sublayers):
            if plant == "deeper":
                sublayers += [PlantedSublayer(own.kind, len(sublayers), None)]
            sublayers.append(PlantedSublayer(own.kind, len(sublayers), source))
        self.sublayers = tuple(sublayers)

    @property
    def d_model(self) -> int:
        """Width D."""
        return self.embed.shape[1]

    def walk(self, tokens: Int[Tensor, "B T"], attention_mask: Tensor | None = None) -> "PlantedWalk":
        """A walk over one batch."""
        return PlantedWalk(self, self.sparse.walk(tokens, attention_mask))

    def into(self, h: Float[Tensor, "*B S"]) -> Float[Tensor, "*B D"]:
        """The planted stream of a sparse one."""
        return h @ self.embed + self.mean

    def out_of(self, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B S"]:
        """The sparse stream of a planted one; what is added along the mean is lost, as in a LayerNorm."""
        return (h - h.mean(-1, keepdim=True) if self.mean else h) @ self.embed.T

    def bridge(self) -> Bridge:
        """The exact bridge."""
        end, own = len(self.sublayers), {one.source: i for i, one in enumerate(self.sublayers)}
        sites = [AlignedSite(i, own[i]) for i in range(len(self.sparse.sublayers))]
        sites.append(AlignedSite(len(self.sparse.sublayers), end))
        alignment = SiteAlignment(tuple(sites), self.plant != "deeper")
        bridge = Bridge(alignment, self.sparse.d_model, self.d_model, topk_fraction=1.0)
        with torch.no_grad():
            for encoder, decoder in zip(bridge.encoders, bridge.decoders, strict=True):
                encoder.weight.copy_(self.embed)
                decoder.weight.copy_(self.embed.T)
                decoder.bias.fill_(self.mean)
        return bridge.to(self.sparse.device).requires_grad_(False)


class PlantedWalk:
    """The steps of one batch through a `PlantedStack`."""

    def __init__(self, stack: PlantedStack, inner: SparseWalk) -> None:
        self.stack, self.inner = stack, inner

    def embedding(self) -> Float[Tensor, "B T D"]:
        """The stream before the first sublayer."""
        return self.stack.into(self.inner.embedding())

    def read(self, i: int, h: Float[Tensor, "kB T D"]) -> Float[Tensor, "kB T D"]:
        """What sublayer i reads: the stream itself (norms are inside)."""
        return h

    def sublayer(self, i: int, h: Float[Tensor, "kB T D"], read: Any = None) -> Float[Tensor, "kB T D"]:
        """The stream after sublayer i; `read` replaces what it reads."""
        source = self.stack.sublayers[i].source
        if source is None:
            return h
        before = self.stack.out_of(h if read is None else read)
        return h + (self.inner.sublayer(source, before) - before) @ self.stack.embed

    def unembed(self, h: Float[Tensor, "kB t D"]) -> Float[Tensor, "kB t V"]:
        """Logits of the final stream."""
        return self.inner.unembed(self.stack.out_of(h))
