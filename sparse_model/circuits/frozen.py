"""The residual stream of a model all of whose nodes are frozen: the table a compiled circuit looks things up in.

With every node frozen, a sublayer adds a constant, so the stream before sublayer i at a prefix is its embedding plus
the constants of the sublayers before. A circuit changes the few channels it writes and leaves the others at this table's
entries; AbsTopK and the norm see all channels, so the table also holds every row's square sum and sorted magnitudes.
The table depends on the model, the ablation values and the prompts, not on the circuit: many circuits share it.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from foundation.errors import UserError
from sparse_model.circuits.prefixes import Prefixes, begins_anew
from sparse_model.transformer.model import SparseTransformer


class FrozenStream:
    """Embedding, constants, square sums, sorted magnitudes per cell (distinct token and position) of some prompts.

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
        self._falling: dict[int, Tensor] = {}
        self._unembedded: Tensor | None = None

    @torch.no_grad()
    def square_sums(self, i: int) -> Float[Tensor, " U"]:
        """Sum of squares of the frozen stream before sublayer i, in double precision (parts of it get exchanged)."""
        if i not in self._square_sums:
            self._square_sums[i] = (self.embedding + self.constants[i]).double().square().sum(1)
        return self._square_sums[i]

    @torch.no_grad()
    def falling(self, i: int) -> Float[Tensor, "U S"]:
        """|h·g| of the frozen stream before sublayer i, largest first; a row's RMS cancels in every comparison."""
        if i not in self._falling:
            gained = ((self.embedding + self.constants[i]) * self.model.norm_gain(i)).abs()
            self._falling[i] = gained.sort(dim=1, descending=True).values
        return self._falling[i]

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
