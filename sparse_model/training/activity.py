"""Which neurons and channels a sparse model uses: those that are ever nonzero on some text.

The floor of the weight projection gives every neuron and channel a few weights, so by its weights nothing is ever
dead (`sparse_model.transformer.census`). A unit that never survives AbsTopK is: it adds nothing, and no gradient reaches it.

    silent neuron      zero after AbsTopK at every token
    silent QK channel  its query or its key is zero at every token, so it adds nothing to any attention logit
    silent V channel   its value is zero at every token
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.taps import At

WATCHED = ("attn.q", "attn.k", "attn.v", "mlp.post_act")


@dataclass(frozen=True)
class SilentUnits:
    """Masks of the silent units of one layer, on the model's device."""

    neurons: Bool[Tensor, " N"]
    qk: Bool[Tensor, " HK"]
    v: Bool[Tensor, " HK"]


class Activity:
    """A tap that notes which units of every layer have been nonzero."""

    def __init__(self, model: SparseTransformer) -> None:
        self.used: dict[str, Tensor] = {}
        places = [f"{layer}.{part}" for layer in range(model.config.n_layer) for part in WATCHED]
        self.tap = At({place: self._noting(place) for place in places})
        self._layers = model.config.n_layer

    def _noting(self, place: str) -> Callable[[Tensor], Tensor]:
        def note(tensor: Tensor) -> Tensor:
            used = tensor.detach().flatten(0, -2).bool().any(0)
            self.used[place] = used | self.used[place] if place in self.used else used
            return tensor

        return note

    def silent(self) -> tuple[SilentUnits, ...]:
        """The silent units of each layer, over all passes so far."""
        found = []
        for layer in range(self._layers):
            q, k, v, neurons = (~self.used[f"{layer}.{part}"] for part in WATCHED)
            found.append(SilentUnits(neurons, q | k, v))
        return tuple(found)


@torch.no_grad()
def silent_units(model: SparseTransformer, batches: Iterable[Int[Tensor, "_ T"]]) -> tuple[SilentUnits, ...]:
    """The units of each layer that stay zero on every token of all batches."""
    activity = Activity(model)
    for tokens in batches:
        model(tokens, tap=activity.tap)
    return activity.silent()
