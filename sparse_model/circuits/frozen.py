"""The residual stream of a model all of whose nodes are frozen: the table a compiled circuit looks things up in.

With every node frozen, a sublayer adds a constant, so the stream before sublayer i at a prefix is its embedding plus
the constants of the sublayers before. A circuit changes the few channels it writes and leaves the others at this table's
entries; AbsTopK and the norm see all channels, so the table also holds every row's square sum and sorted magnitudes.
The table depends on the model, the ablation values and the prompts, not on the circuit: many circuits share it.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_model.circuits.prefixes import Prefixes, begins_anew
from sparse_model.model import SparseTransformer
from sparse_model.settings import UserError


class FrozenStream:
    """Embedding, constants, square sums, magnitudes and ranks per cell (distinct token and position) of some prompts.

    Raises:
        UserError: a prompt holds more than one document of a model that keeps documents apart.
    """

    def __init__(self, model: SparseTransformer, values: Mapping[str, Tensor], prefixes: Prefixes) -> None:
        if begins_anew(prefixes, model.config.document_token):
            raise UserError("a prompt holds a document_token inside; prompts of one document each can be looked up")
        self.model, self.prefixes = model, prefixes
        with torch.no_grad():
            cells = prefixes.cell_row
            embedding = model.embeddings("wte").weight[prefixes.token[cells]]
            if model.config.position == "added":
                embedding = embedding + model.embeddings("wpe").weight[prefixes.position[cells]]
            self.embedding: Float[Tensor, "U S"] = embedding.detach()
        self.constants = frozen_constants(model, values)
        self._square_sums: dict[int, Tensor] = {}
        self._sorted: dict[int, tuple[Tensor, Tensor]] = {}
        self._unembedded: Tensor | None = None

    @torch.no_grad()
    def square_sums(self, i: int) -> Float[Tensor, " U"]:
        """Sum of squares of the frozen stream before sublayer i, in double precision (parts of it get exchanged)."""
        if i not in self._square_sums:
            self._square_sums[i] = (self.embedding + self.constants[i]).double().square().sum(1)
        return self._square_sums[i]

    @torch.no_grad()
    def sorted_magnitudes(self, i: int) -> Float[Tensor, "U S"]:
        """|h·g| of the frozen stream before sublayer i in rising order; a row's RMS cancels in every comparison."""
        return self._order(i)[0]

    @torch.no_grad()
    def ranks(self, i: int) -> Int[Tensor, "U S"]:
        """How many channels of the frozen stream before sublayer i AbsTopK prefers to each: larger |h·g|, or equal and lower."""
        return self._order(i)[1]

    def _order(self, i: int) -> tuple[Tensor, Tensor]:
        if i not in self._sorted:
            gained = ((self.embedding + self.constants[i]) * self.model.norm_gain(i)).abs()
            falling, order = gained.sort(dim=1, descending=True, stable=True)
            place = torch.arange(gained.shape[1], dtype=torch.int32, device=gained.device).expand_as(order)
            ranks = torch.empty_like(place, memory_format=torch.contiguous_format).scatter_(1, order, place)
            self._sorted[i] = falling.flip(1), ranks
        return self._sorted[i]

    @torch.no_grad()
    def unembedded(self) -> Float[Tensor, "M V"]:
        """Unembedding of the frozen final stream at each prompt's end, before the division by its RMS."""
        if self._unembedded is None:
            i = len(self.model.sublayers)
            final = self.embedding[self.prefixes.cell[self.prefixes.end]] + self.constants[i]
            self._unembedded = (final * self.model.norm_gain(i)) @ self.model.lm_head.weight.T
        return self._unembedded


def frozen_constants(model: SparseTransformer, values: Mapping[str, Tensor]) -> Float[Tensor, "sites S"]:
    """What the frozen sublayers before each residual site add to the stream, 2L + 1 sites."""
    writes = [
        values[f"{layer}.{block}.resid_delta"] for layer in range(model.config.n_layer) for block in ("attn", "mlp")
    ]
    return torch.stack([torch.zeros_like(writes[0]), *writes]).cumsum(0)
