"""The bridge: at every aligned site an encoder f: R^D → R^S (linear, then AbsTopK) and a decoder g: R^S → R^D (METHOD §4).

Both stay linear on purpose: flexible maps find anything, even in random models.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bridges.alignment import SiteAlignment
from sparse_model.transformer.abs_topk import abs_topk


class Bridge(nn.Module):
    """Encoders and decoders of all aligned sites, indexed by their place j in the alignment.

    Args:
        alignment: the meeting points.
        d_sparse, d_dense: widths S and D of the two streams.
        topk_fraction: fraction of sparse channels the encoders keep.
        seed: of the initialisation.
    """

    rms_ratio: Tensor
    """ρ_j = RMS(h^s)/RMS(h^d) over reference text (METHOD §5), one per aligned site; set after training."""

    dense_scale: Tensor
    """s_j, the unit in which the dense stream is measured while training; 1 in an artefact."""

    def __init__(
        self, alignment: SiteAlignment, d_sparse: int, d_dense: int, topk_fraction: float, seed: int = 0
    ) -> None:
        super().__init__()
        self.alignment, self.d_sparse, self.d_dense = alignment, d_sparse, d_dense
        self.topk_fraction = topk_fraction
        self.k = max(1, round(topk_fraction * d_sparse))
        count = len(alignment.sites)
        encoders = nn.ModuleList(nn.Linear(d_dense, d_sparse) for _ in range(count))
        decoders = nn.ModuleList(nn.Linear(d_sparse, d_dense) for _ in range(count))
        # the type of a ModuleList does not say what it holds
        self.encoders, self.decoders = cast(Sequence[nn.Linear], encoders), cast(Sequence[nn.Linear], decoders)
        generator = torch.Generator().manual_seed(seed)
        for module in (*self.encoders, *self.decoders):
            nn.init.normal_(module.weight, std=0.1 * module.in_features**-0.5, generator=generator)
            nn.init.zeros_(module.bias)
        self.register_buffer("rms_ratio", torch.ones(count))
        self.register_buffer("dense_scale", torch.ones(count), persistent=False)

    @torch.no_grad()
    def set_dense_scale(self, scale: Float[Tensor, " J"]) -> None:
        """Train in units in which the dense stream at place j has RMS 1: f_j(h / s_j) and s_j · g_j(h).

        Without it the first loss of a model whose stream is large is enormous, and the decoders' learning rate far too
        small. Both maps stay linear; `fold_dense_scale` puts the units into the weights.
        """
        self.dense_scale.copy_(scale)

    @torch.no_grad()
    def fold_dense_scale(self) -> None:
        """Move the units into encoder and decoder weights; what `encode` and `decode` compute stays the same."""
        for j, (encoder, decoder) in enumerate(zip(self.encoders, self.decoders, strict=True)):
            encoder.weight.div_(self.dense_scale[j])
            decoder.weight.mul_(self.dense_scale[j])
            decoder.bias.mul_(self.dense_scale[j])
        self.dense_scale.fill_(1)

    def encode(self, j: int, h: Float[Tensor, "*B D"]) -> Float[Tensor, "*B S"]:
        """f_j: the sparse stream that the dense stream h stands for, in h's precision, whatever autocast multiplies in."""
        return abs_topk(self.encoders[j](h / self.dense_scale[j]), self.k).to(h.dtype)

    def decode(self, j: int, h: Float[Tensor, "*B S"]) -> Float[Tensor, "*B D"]:
        """g_j: the dense stream that the sparse stream h stands for, in h's precision."""
        return self.decoders[j](h).to(h.dtype) * self.dense_scale[j]

    def place_of_sparse(self, site: int) -> int | None:
        """Place j of a sparse site in the alignment; None where no dense site meets it."""
        places = [j for j, aligned in enumerate(self.alignment.sites) if aligned.sparse == site]
        return places[0] if places else None
