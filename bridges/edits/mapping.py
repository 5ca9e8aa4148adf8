"""Circuit node → direction in the dense model (M5).

A read node is post-norm, bridges act pre-norm. For a read channel c of sublayer i whose activation changes by Δa,

    Δread^d = Δa / g^s_c · ρ_i · W_dec,i[:, c] ⊙ γ^d        (centred before γ^d where the dense norm is a LayerNorm)

A node that writes to the stream changes the stream after its sublayer: Δh^d = Δa · W_dec[:, c], a neuron along
what it writes, Δh^d = Δa · W_dec (W_proj[:, n]). Where reads do not correspond (unequal depth, parallel blocks), a read
node becomes the same change of its stream channel at its own site: Δh^d = Δh^s_c · W_dec[:, c]. A node whose site meets no
dense site has no place in the dense model (`unplaced`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from bridges.bridge import Bridge
from dense_adapters import DenseStack
from foundation.errors import UserError
from sparse_model.circuits.circuit import Circuit
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.nodes import Node

SMALLEST_GAIN = 1e-4
"""Read channels with a smaller norm gain carry nothing and are left out."""


STREAM_SITE = {"act_in": 0, "post_act": 1, "resid_delta": 1}
"""Which site a node of sublayer i acts at, counted from i: reads before it, writes and neurons after it."""


@dataclass(frozen=True)
class SiteDirections:
    """The dense directions of some nodes that meet one dense site.

    `directions[k]` is what the dense read (`kind` read) or residual changes by per unit of activation of `nodes[k]`.
    """

    place: int
    """in the bridge's alignment"""
    dense_site: int
    kind: Literal["read", "residual"]
    nodes: tuple[Node, ...]
    directions: Float[Tensor, "n D"]


def map_circuit(
    circuit: Circuit, bridge: Bridge, sparse: SparseTransformer, dense: DenseStack
) -> tuple[SiteDirections, ...]:
    """One entry per aligned sublayer: the circuit's read nodes as dense directions, in order of site.

    Raises:
        UserError: the circuit has no read node that maps.
    """
    left_out = set(unplaced(circuit.nodes, bridge, sparse.d_model))
    reads = [n for n in circuit.nodes if n.part == "act_in" and n.channel < sparse.d_model and n not in left_out]
    mapped = map_nodes(reads, bridge, sparse, dense)
    if not mapped:
        raise UserError(
            f"the circuit for '{circuit.task}' has no read nodes to map; prune it again with a lower --target-loss, "
            "or train a bridge in which every site is aligned"
        )
    return mapped


def unplaced(nodes: Iterable[Node], bridge: Bridge, d_model: int) -> tuple[Node, ...]:
    """Nodes that act on the stream at a site which meets no dense site."""
    met = {site.sparse for site in bridge.alignment.sites}
    return tuple(
        node
        for node in nodes
        if node.part in STREAM_SITE and node.channel < d_model and node.sublayer + STREAM_SITE[node.part] not in met
    )


def map_nodes(
    nodes: Iterable[Node], bridge: Bridge, sparse: SparseTransformer, dense: DenseStack
) -> tuple[SiteDirections, ...]:
    """Directions of any read, write or neuron nodes, grouped by dense site and kind.

    Raises:
        UserError: a node lives inside attention, where no bridge reaches, or does not exist.
    """
    groups: dict[tuple[int, str], list[tuple[Node, Tensor]]] = {}
    for node in nodes:
        node.check(sparse.config)
        place, kind, direction = _map_node(node, bridge, sparse, dense)
        if direction is not None:
            groups.setdefault((place, kind), []).append((node, direction))
    return tuple(
        SiteDirections(
            place=place,
            dense_site=bridge.alignment.sites[place].dense,
            kind="read" if kind == "read" else "residual",
            nodes=tuple(node for node, _ in entries),
            directions=torch.stack([direction for _, direction in entries]),
        )
        for (place, kind), entries in sorted(groups.items())
    )


def _map_node(
    node: Node, bridge: Bridge, sparse: SparseTransformer, dense: DenseStack
) -> tuple[int, str, Tensor | None]:
    if node.part == "act_in":
        if node.channel >= sparse.d_model:
            raise UserError(f"node '{node}' is a position channel, which no bridge carries; choose another")
        if bridge.alignment.is_identity:
            return node.sublayer, "read", read_direction(node, bridge, sparse, dense)
        place = _placed(node, bridge)
        return place, "residual", bridge.decoders[place].weight[:, node.channel].detach()
    if node.part not in ("resid_delta", "post_act"):
        raise UserError(
            f"node '{node}' lives inside attention, where no bridge reaches; map a read (act_in), write (resid_delta) or "
            "neuron (post_act) node"
        )
    place = _placed(node, bridge)
    decoder = bridge.decoders[place].weight.detach()
    if node.part == "resid_delta":
        return place, "residual", decoder[:, node.channel]
    written = sparse.blocks[node.layer].mlp.c_proj.weight[:, node.channel].detach()
    return place, "residual", decoder @ written


def read_direction(
    node: Node, bridge: Bridge, sparse: SparseTransformer, dense: DenseStack
) -> Float[Tensor, " D"] | None:
    """M5 for one read node per unit of Δa; None where the channel's gain is (almost) zero."""
    site = node.sublayer
    gain = sparse.norm_gain(site)[node.channel].detach()
    if gain.abs() < SMALLEST_GAIN:
        return None
    place = next(j for j, aligned in enumerate(bridge.alignment.sites) if aligned.sparse == site)
    direction = bridge.decoders[place].weight[:, node.channel].detach()
    if dense.norm_centres(bridge.alignment.sites[place].dense):
        direction = direction - direction.mean()
    dense_gain = dense.norm_gain(bridge.alignment.sites[place].dense).to(direction)
    return direction * dense_gain * (bridge.rms_ratio[place] / gain)


def _placed(node: Node, bridge: Bridge) -> int:
    """Place of the site a node acts at.

    Raises:
        UserError: that site meets no dense site.
    """
    site = node.sublayer + STREAM_SITE[node.part]
    place = bridge.place_of_sparse(site)
    if place is None:
        met = ", ".join(str(aligned.sparse) for aligned in bridge.alignment.sites)
        raise UserError(
            f"node '{node}' acts at sparse site {site}, which meets no dense site (aligned: {met}); choose another node, or "
            "train a bridge in which every site is aligned"
        )
    return place


def check_base_model(fingerprint: str, dense: DenseStack, name: str) -> None:
    """Refuse to apply an edit to another dense model than its own.

    Raises:
        UserError: the fingerprints differ.
    """
    if dense.fingerprint != fingerprint:
        raise UserError(
            f"{name}: the edit was made for another base model (fingerprint {fingerprint[:12]}, not {dense.fingerprint[:12]}); "
            "pass its own model, or map the circuit through a bridge to this one"
        )
