"""One linear map of a sublayer folded around a circuit: kept inputs to kept outputs, everything else a constant.

A frozen input adds a constant to every output. Outputs that no kept input reaches are therefore constants, sorted once;
those that some kept input reaches are computed, kept or not, because AbsTopK compares kept channels with all of them.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparse_model.circuits.masked_sublayers import EdgeMask
from sparse_model.circuits.selection import kept_of_varying


class FoldedLinear:
    """The kept channels [C] of act(W x + b) after AbsTopK, from the kept inputs [I] alone.

    Args:
        frozen: weight @ values, which no circuit changes.
        values: what each input is frozen at where it is not kept.
        k: channels AbsTopK keeps; None where it is off.
        activation: applied before AbsTopK.
        needed: outputs to compute.
        edge: which weights between kept channels are removed.
    """

    def __init__(
        self,
        weight: Float[Tensor, "W_out W_in"],
        bias: Tensor | None,
        frozen: Float[Tensor, " W_out"],
        kept_in: Bool[Tensor, " W_in"],
        values: Float[Tensor, " W_in"],
        needed: Bool[Tensor, " W_out"],
        k: int | None,
        activation: Callable[[Tensor], Tensor] | None = None,
        edge: EdgeMask | None = None,
    ) -> None:
        self.k, self.activation = k, activation
        self.channels = needed.nonzero().flatten()
        reads = kept_in.nonzero().flatten()
        live = weight[:, reads]
        constant = frozen - live @ values[reads]
        if edge is not None:  # a removed edge carries its source's value
            place = torch.searchsorted(reads, edge.read)
            lost = weight[edge.to[:, None], edge.read] * (1 - edge.mask)
            live[edge.to[:, None], place] -= lost
            constant = constant.index_add(0, edge.to, lost @ values[edge.read])
        if bias is not None:
            constant = constant + bias
        varies = needed | (live != 0).any(1) if k is not None else needed
        self.varying = varies.nonzero().flatten()
        self.weight = live[self.varying].T.contiguous()
        self.constant = constant[self.varying]
        self.chosen = torch.searchsorted(self.varying, self.channels)
        if k is not None:
            still = (~varies).nonzero().flatten()
            magnitude = self._activated(constant[still]).abs()
            order = magnitude.argsort(descending=True)
            self.static, self.static_channels = magnitude[order], still[order]

    def __call__(self, x: Float[Tensor, "R I"]) -> Float[Tensor, "R C"]:
        """Kept channels of every row."""
        if not len(self.channels):
            return x.new_zeros(len(x), 0)
        made = self._activated(torch.addmm(self.constant, x, self.weight))
        chosen = made[:, self.chosen]
        if self.k is None:
            return chosen
        kept = kept_of_varying(made.abs(), self.varying, self.chosen, self.static, self.static_channels, self.k)
        return torch.where(kept, chosen, 0.0)

    def _activated(self, x: Tensor) -> Tensor:
        return x if self.activation is None else self.activation(x)
