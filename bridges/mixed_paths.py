"""Random mixed paths (METHOD §4): walks that cross between the two stacks at any subset of aligned sites.

M3 and M4 train single crossings only; the KL on random paths says whether bridges compose.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from bridges.bridge import Bridge
from bridges.protocol import Walk


@dataclass(frozen=True)
class MixedPath:
    """For each segment between aligned sites, whether it runs in the dense stack; one more entry for the unembedding."""

    in_dense: tuple[bool, ...]

    @classmethod
    def draw(cls, segments: int, generator: torch.Generator) -> "MixedPath":
        """A fair coin per segment, the unembedding included."""
        return cls(tuple(bool(coin) for coin in torch.randint(0, 2, (segments + 1,), generator=generator)))

    @property
    def crossings(self) -> int:
        """How often the path changes stacks."""
        return sum(a != b for a, b in zip(self.in_dense, self.in_dense[1:], strict=False))


def follow(path: MixedPath, bridge: Bridge, sparse_walk: Walk, dense_walk: Walk) -> Float[Tensor, "B T V"]:
    """Logits at the end of the path."""
    sites = bridge.alignment.sites
    h = dense_walk.embedding() if path.in_dense[0] else sparse_walk.embedding()
    was_dense = path.in_dense[0]
    for j, is_dense in enumerate(path.in_dense):
        if is_dense != was_dense:
            h = bridge.decode(j, h) if is_dense else bridge.encode(j, h)
            was_dense = is_dense
        if j + 1 < len(sites):
            here, there = (sites[j].dense, sites[j + 1].dense) if is_dense else (sites[j].sparse, sites[j + 1].sparse)
            walk = dense_walk if is_dense else sparse_walk
            for i in range(here, there):
                h = walk.sublayer(i, h)
    return dense_walk.unembed(h) if was_dense else sparse_walk.unembed(h)
