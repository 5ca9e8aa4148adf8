"""The causal map (METHOD §6): where the answer is carried, by site and position role.

At each place of the alignment and each role the stream is replaced at that role's positions by the counterfactual's: in the
dense model, in the sparse model, and in the dense model through the decoder (all channels, the circuit's, the others').
The dense patch is the upper bound for any edit there.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from bridges.validation.contrast import ROLES, masked
from bridges.validation.effects import Shares
from bridges.validation.node_sets import SiteChannels, Translation

ROWS = ("dense", "sparse", "decoded", "circuit", "complement")


def causal_map(found: Translation, circuit: Mapping[int, SiteChannels], seed: int = 0) -> dict[str, Any]:
    """Keys `places` (sparse and dense site of each), `roles`, `share` (mean positions per prompt by role), one table
    [place][role] of estimates per row of `ROWS`, and `agreement`: the correlation of the dense and the sparse table."""
    contrast = found.contrast
    sites = found.bridge.alignment.sites
    of_dense, of_sparse = Shares(found.dense, seed=seed), Shares(found.sparse, seed=seed)
    roles = {name: contrast.role(name) for name in ROLES}

    def dense_patch(place: int) -> Tensor:
        return found.dense.difference(sites[place].dense)

    def decoded(channels: Callable[[int], SiteChannels | None]) -> Callable[[int], Tensor | None]:
        def change(place: int) -> Tensor | None:
            chosen = channels(place)
            return None if chosen is None else found.dense_change(place, found.sparse_change(chosen))

        return change

    def others(place: int) -> SiteChannels:
        every = found.everything(place)
        return every.without(circuit[place]) if place in circuit else every

    changes: dict[str, Callable[[int], Tensor | None]] = {
        "dense": dense_patch,
        "decoded": decoded(found.everything),
        "circuit": decoded(circuit.get),
        "complement": decoded(others),
    }
    tables: dict[str, list[list[dict[str, float]]]] = {name: [] for name in ROWS}
    for place, site in enumerate(sites):
        whole = found.sparse.difference(site.sparse)
        tables["sparse"].append(
            [
                of_sparse.estimate(found.sparse.edited(site.sparse, masked(whole, role)[None])[0]).to_json()
                for role in roles.values()
            ]
        )
        for name, make in changes.items():
            change = make(place)
            row = []
            for role in roles.values():
                if change is None:
                    row.append({"value": 0.0, "low": 0.0, "high": 0.0})
                else:
                    row.append(
                        of_dense.estimate(found.dense.edited(site.dense, masked(change, role)[None])[0]).to_json()
                    )
            tables[name].append(row)
    values = {name: np.array([[cell["value"] for cell in row] for row in table]) for name, table in tables.items()}
    return {
        "places": [{"sparse_site": site.sparse, "dense_site": site.dense} for site in sites],
        "roles": list(ROLES),
        "tokens": {name: float(role.sum(1).double().mean()) for name, role in roles.items()},
        "tables": tables,
        "agreement": _correlation(values["dense"], values["sparse"]),
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel(), b.ravel()
    return float(np.corrcoef(a, b)[0, 1]) if min(np.ptp(a), np.ptp(b)) > 0 else 0.0
