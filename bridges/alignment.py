"""Which dense site meets which sparse site (DESIGN: SiteAlignment).

Equal depth and equal kinds of sublayers: every site meets its twin. Otherwise layer boundaries are matched
monotonically: boundary l of the sparse model meets boundary round(l · L_dense / L_sparse) of the dense one.
"""

from dataclasses import dataclass

from bridges.protocol import ResidualStack
from foundation.errors import UserError


@dataclass(frozen=True)
class AlignedSite:
    """One meeting point: site indices in the two stacks."""

    sparse: int
    dense: int


@dataclass(frozen=True)
class SiteAlignment:
    """Meeting points in order, from the embeddings to the final streams."""

    sites: tuple[AlignedSite, ...]
    is_identity: bool
    """True where both stacks have the same sublayers, so that reads correspond, not only residuals."""

    def to_json(self) -> dict[str, object]:
        """Plain types."""
        return {"sites": [[site.sparse, site.dense] for site in self.sites], "is_identity": self.is_identity}


def align(sparse: ResidualStack, dense: ResidualStack) -> SiteAlignment:
    """Align two stacks.

    Raises:
        UserError: the sparse model has more layers than the dense one.
    """
    kinds = [[sublayer.kind for sublayer in stack.sublayers] for stack in (sparse, dense)]
    if kinds[0] == kinds[1]:
        return SiteAlignment(tuple(AlignedSite(i, i) for i in range(len(kinds[0]) + 1)), True)
    sparse_edges, dense_edges = layer_boundaries(sparse), layer_boundaries(dense)
    L_sparse, L_dense = len(sparse_edges) - 1, len(dense_edges) - 1
    if L_sparse > L_dense:
        raise UserError(
            f"the sparse model has {L_sparse} layers, the dense one {L_dense}; a bridge needs at most as many sparse layers: "
            f"lower n_layer to {L_dense} or less"
        )
    matched = [round(layer * L_dense / L_sparse) for layer in range(L_sparse + 1)]
    sites = tuple(AlignedSite(s, dense_edges[d]) for s, d in zip(sparse_edges, matched, strict=True))
    return SiteAlignment(sites, False)


def layer_boundaries(stack: ResidualStack) -> list[int]:
    """Site index at which each layer starts, and the final site."""
    layers = [sublayer.layer for sublayer in stack.sublayers]
    return [layers.index(layer) for layer in sorted(set(layers))] + [len(layers)]
