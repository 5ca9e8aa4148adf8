"""Which dense site meets which sparse site (DESIGN: SiteAlignment).

Equal depth and equal kinds of sublayers: every site meets its twin. Otherwise boundary l of the sparse model, the stream in
front of its layer l, meets boundary b(l) = round(l · L_dense / L_sparse) of the dense one. What becomes of the sites within a
sparse layer, between attention and MLP, is the rule:

    boundaries   they meet nothing
    every        each meets the layer boundary halfway between b(l) and b(l + 1), or where these are neighbours the place between
                 attention and MLP of that one dense layer; where it has none (a parallel block), nothing

Both are strictly monotone: what comes later in one stack comes later in the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bridges.bridge_config import AlignmentRule
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
    rule: Literal["identity", "boundaries", "every", "extended"] = "boundaries"
    """What the meeting points follow from; `extended`: some were added to a trained bridge (see `bridges.extend`)."""

    @property
    def unmet(self) -> tuple[int, ...]:
        """Sparse sites that meet no dense one; what a circuit does there has no place in the dense model."""
        met = {site.sparse for site in self.sites}
        return tuple(site for site in range(self.sites[-1].sparse + 1) if site not in met)

    def to_json(self) -> dict[str, object]:
        """Plain types."""
        sites = [[site.sparse, site.dense] for site in self.sites]
        return {"sites": sites, "is_identity": self.is_identity, "rule": self.rule}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "SiteAlignment":
        """What `to_json` wrote; artefacts without a rule were made by layer boundaries."""
        rule = found.get("rule", "identity" if found["is_identity"] else "boundaries")
        return cls(tuple(AlignedSite(s, d) for s, d in found["sites"]), found["is_identity"], rule)


def align(sparse: ResidualStack, dense: ResidualStack, rule: AlignmentRule = "boundaries") -> SiteAlignment:
    """Align two stacks; the rule matters only where they differ in depth or kinds of sublayers.

    Raises:
        UserError: the sparse model has more layers than the dense one.
    """
    kinds = [[sublayer.kind for sublayer in stack.sublayers] for stack in (sparse, dense)]
    if kinds[0] == kinds[1]:
        return SiteAlignment(tuple(AlignedSite(i, i) for i in range(len(kinds[0]) + 1)), True, "identity")
    sparse_edges, dense_edges = layer_boundaries(sparse), layer_boundaries(dense)
    L_sparse, L_dense = len(sparse_edges) - 1, len(dense_edges) - 1
    if L_sparse > L_dense:
        raise UserError(
            f"the sparse model has {L_sparse} layers, the dense one {L_dense}; a bridge needs at most as many sparse layers: "
            f"lower n_layer to {L_dense} or less"
        )
    matched = [round(layer * L_dense / L_sparse) for layer in range(L_sparse + 1)]
    sites = [AlignedSite(s, dense_edges[d]) for s, d in zip(sparse_edges, matched, strict=True)]
    if rule == "every":
        for layer in range(L_sparse):
            between = _between(dense_edges, matched[layer], matched[layer + 1])
            if between is not None:
                sites.append(AlignedSite(sparse_edges[layer] + 1, between))
    return SiteAlignment(tuple(sorted(sites, key=lambda site: site.sparse)), False, rule)


def _between(edges: list[int], start: int, stop: int) -> int | None:
    """The dense site for the middle of a sparse layer that spans the dense layers `start` to `stop`; None for no such site."""
    if stop - start > 1:
        return edges[(start + stop) // 2]
    return edges[start] + 1 if edges[stop] - edges[start] > 1 else None


def layer_boundaries(stack: ResidualStack) -> list[int]:
    """Site index at which each layer starts, and the final site."""
    layers = [sublayer.layer for sublayer in stack.sublayers]
    return [layers.index(layer) for layer in sorted(set(layers))] + [len(layers)]
