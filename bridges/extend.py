"""Further meeting points for a trained bridge, fitted in closed form on frozen models.

A bridge trained at layer boundaries says nothing about what a circuit does within a layer. Where a sparse layer's attention
moves the answer and the dense model does so somewhere inside the layers that this one stands for, every trained place comes
before or after the move. At such a place only the changed tokens can be edited, and no verdict can rest on it.

Here both maps of a new place are ridge regressions between the two streams on text, over all positions but the first (see
`bridges.massive`):

    g: h^d ≈ W h^s + b        f: h^s ≈ W h^d + b, before AbsTopK
    W = (Σ (y − ȳ)(x − x̄)ᵀ) (Σ (x − x̄)(x − x̄)ᵀ + λ I)⁻¹,  λ = RIDGE · mean diagonal

Trained places keep their weights. A fitted place knows only this squared error: nothing was trained to run on through it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from bridges.alignment import AlignedSite, SiteAlignment
from bridges.artefact import measure_rms_ratio, save_bridge
from bridges.bridge import Bridge
from bridges.massive import after_first, massive_channels, nmse_three_ways
from bridges.pairing import Pairing
from bridges.protocol import ResidualStack, residual_sites
from foundation.errors import UserError
from foundation.writing import atomic_folder
from sparse_model.transformer.model import SparseTransformer

RIDGE = 1e-3
"""λ over the mean variance of the inputs."""
BATCH = 8
"""Blocks whose streams are held at once."""
MADE_ANEW = (
    "schema_version", "made_by", "alignment", "d_sparse", "d_dense", "topk_fraction", "tensors_fingerprint", "sparse_fingerprint",
    "versions",
)  # fmt: skip
"""Keys of a description that saving writes itself."""
REFERENCE_BLOCKS = 32
"""Blocks over which the streams' sizes are measured."""


@dataclass(frozen=True)
class Extended:
    """A bridge with more places, and how well each new one predicts held-out text."""

    bridge: Bridge
    sites: list[dict[str, Any]]
    """per new place: `sparse_site`, `dense_site`, `nmse_encoder` and `nmse_decoder`, with `_later` and `_ordinary` kinds"""


def extended_alignment(
    alignment: SiteAlignment, new: Sequence[AlignedSite], sparse_end: int, dense_end: int
) -> SiteAlignment:
    """The alignment with further places.

    Raises:
        UserError: a site does not exist, is met already, or would come in another order in the two stacks.
    """
    given = ", ".join(f"{site.sparse}:{site.dense}" for site in new)
    if not new:
        raise UserError("no site to add; pass --site SPARSE:DENSE, e.g. --site 7:54")
    for site in new:
        if not (0 < site.sparse < sparse_end and 0 < site.dense < dense_end):
            raise UserError(
                f"--site {site.sparse}:{site.dense}: inner sites are 1 to {sparse_end - 1} of the sparse and 1 to "
                f"{dense_end - 1} of the dense model; choose among these"
            )
    sites = sorted([*alignment.sites, *new], key=lambda site: (site.sparse, site.dense))
    for before, after in pairwise(sites):
        if before.sparse >= after.sparse or before.dense >= after.dense:
            raise UserError(
                f"--site {given}: {before.sparse}:{before.dense} and {after.sparse}:{after.dense} do not come one after "
                "another in both models; a new site lies strictly between its neighbours"
            )
    return SiteAlignment(tuple(sites), False, "extended")


@torch.no_grad()
def extend_bridge(
    bridge: Bridge,
    sparse: SparseTransformer,
    dense: ResidualStack,
    new: Sequence[AlignedSite],
    train: NDArray[np.integer],
    held_out: NDArray[np.integer],
    device: str = "cpu",
) -> Extended:
    """Fit the places on token blocks [N, T] and measure them on others.

    Raises:
        UserError: see `extended_alignment`; or fewer tokens than the wider stream has channels.
    """
    alignment = extended_alignment(bridge.alignment, new, len(sparse.sublayers), len(dense.sublayers))
    tokens = len(train) * (train.shape[1] - 1)
    if tokens < max(bridge.d_sparse, bridge.d_dense):
        raise UserError(
            f"{tokens} tokens cannot fit maps between {bridge.d_sparse} and {bridge.d_dense} channels; pass more --blocks "
            f"(at least {-(-max(bridge.d_sparse, bridge.d_dense) // (train.shape[1] - 1))})"
        )
    found = Bridge(alignment, bridge.d_sparse, bridge.d_dense, bridge.topk_fraction).to(device)
    forward = {site: Ridge(bridge.d_sparse, bridge.d_dense, device) for site in new}
    backward = {site: Ridge(bridge.d_dense, bridge.d_sparse, device) for site in new}
    for h_sparse, h_dense in _streams(sparse, dense, new, train, device, "fitting sites"):
        for site in new:
            ours, theirs = after_first(h_sparse[site]).flatten(0, 1), after_first(h_dense[site]).flatten(0, 1)
            forward[site].add(ours, theirs)
            backward[site].add(theirs, ours)
    for j, site in enumerate(alignment.sites):
        if site in forward:
            for module, ridge in ((found.decoders[j], forward[site]), (found.encoders[j], backward[site])):
                weight, bias = ridge.solve()
                module.weight.copy_(weight)
                module.bias.copy_(bias)
        else:
            old = bridge.alignment.sites.index(site)
            found.decoders[j].load_state_dict(bridge.decoders[old].state_dict())
            found.encoders[j].load_state_dict(bridge.encoders[old].state_dict())
    found.eval().requires_grad_(False)
    measure_rms_ratio(sparse, dense, found, train[:REFERENCE_BLOCKS], device)
    for j, site in enumerate(alignment.sites):
        if site not in forward:
            found.rms_ratio[j] = bridge.rms_ratio[bridge.alignment.sites.index(site)]
    return Extended(found, _measured(found, sparse, dense, new, held_out, device))


def extend_folder(
    pairing: Pairing,
    new: Sequence[AlignedSite],
    train: NDArray[np.integer],
    held_out: NDArray[np.integer],
    out: Path,
    overwrite: bool = False,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Extend a loaded bridge and write it as a new artefact; returns the figures of the new places.

    Raises:
        UserError: see `extend_bridge`; or `out` holds something else.
    """
    artefact = pairing.artefact
    with atomic_folder(out, overwrite, "bridge") as folder:
        found = extend_bridge(artefact.bridge, artefact.sparse, pairing.stack, new, train, held_out, device)
        kept = {key: value for key, value in artefact.description.items() if key not in MADE_ANEW}
        fitted = {"sites": found.sites, "tokens": int(train.size), "ridge": RIDGE}
        earlier = artefact.description.get("extended", [])
        save_bridge(folder, found.bridge, artefact.sparse, pairing.tokenizer, {**kept, "extended": [*earlier, fitted]})
    return found.sites


class Ridge:
    """Ridge regression of y on x from sums over rows, in double precision."""

    def __init__(self, inputs: int, outputs: int, device: str = "cpu") -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.count = 0
        self.x, self.y, self.xx, self.yx = zeros(inputs), zeros(outputs), zeros(inputs, inputs), zeros(outputs, inputs)

    def add(self, x: Float[Tensor, "N X"], y: Float[Tensor, "N Y"]) -> None:
        """Take further rows in."""
        x, y = x.double(), y.double()
        self.count += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.xx += x.T @ x
        self.yx += y.T @ x

    def solve(self, ridge: float = RIDGE) -> tuple[Float[Tensor, "Y X"], Float[Tensor, " Y"]]:
        """Weight and bias."""
        mean_x, mean_y = self.x / self.count, self.y / self.count
        covariance = self.xx / self.count - mean_x[:, None] * mean_x[None]
        cross = self.yx / self.count - mean_y[:, None] * mean_x[None]
        strength = (ridge * covariance.diagonal().mean()).clamp(min=1e-12)
        weight = torch.linalg.solve(
            covariance + strength * torch.eye(len(mean_x), dtype=cross.dtype, device=cross.device), cross.T
        ).T
        return weight.float(), (mean_y - weight @ mean_x).float()


Site = dict[AlignedSite, Tensor]


def _streams(
    sparse: SparseTransformer,
    dense: ResidualStack,
    sites: Sequence[AlignedSite],
    blocks: NDArray[np.integer],
    device: str,
    label: str,
) -> Iterator[tuple[Site, Site]]:
    """Both streams at the sites, a few blocks at a time."""
    for start in tqdm(range(0, len(blocks), BATCH), desc=label, unit="batch", delay=2, leave=False):
        tokens = torch.from_numpy(np.asarray(blocks[start : start + BATCH], dtype=np.int64)).to(device)
        ours, theirs = residual_sites(sparse, sparse.walk(tokens)), residual_sites(dense, dense.walk(tokens))
        yield {site: ours[site.sparse] for site in sites}, {site: theirs[site.dense] for site in sites}


def _measured(
    bridge: Bridge,
    sparse: SparseTransformer,
    dense: ResidualStack,
    new: Sequence[AlignedSite],
    held_out: NDArray[np.integer],
    device: str,
) -> list[dict[str, Any]]:
    """NMSE of both maps at every new place, averaged over batches."""
    figures: dict[AlignedSite, list[dict[str, float]]] = {site: [] for site in new}
    for h_sparse, h_dense in _streams(sparse, dense, new, held_out, device, "measuring sites"):
        for site in new:
            j = bridge.alignment.sites.index(site)
            ours, theirs = h_sparse[site], h_dense[site]
            encoder = nmse_three_ways(bridge.encode(j, theirs), ours, massive_channels(ours))
            decoder = nmse_three_ways(bridge.decode(j, ours), theirs, massive_channels(theirs))
            figures[site].append(
                {f"nmse_encoder{which}": value for which, value in encoder.items()}
                | {f"nmse_decoder{which}": value for which, value in decoder.items()}
            )
    return [
        {
            "sparse_site": site.sparse,
            "dense_site": site.dense,
            **{name: float(np.mean([batch[name] for batch in batches])) for name in batches[0]},
        }
        for site, batches in figures.items()
    ]
