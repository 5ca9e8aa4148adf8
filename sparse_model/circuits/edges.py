"""Edges: the nonzero weights between kept nodes, and what it means to remove one.

Within a layer act_in → q, k, v; v → resid_delta (through the head's output channel of the same number); MLP act_in →
post_act → resid_delta. Nodes of different sublayers meet in the residual stream without a weight.

A removed edge carries its source's ablation value instead of its activation, so that it adds weight · value, a constant.
Edge masks are keyed by the *target* location, [W_target, W_source], False where removed. Removing every edge of a
source removes the node (under an attention sink, which takes a share of every value, a removed edge out of v still adds
weight · value). Rows of targets that are not kept stay True: a frozen node still competes in AbsTopK with what it would
have been.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.nodes import Node

Map = TypeVar("Map", bound=nn.Linear)
SOURCES = {
    "attn.q": "attn.act_in",
    "attn.k": "attn.act_in",
    "attn.v": "attn.act_in",
    "attn.resid_delta": "attn.v",
    "mlp.post_act": "mlp.act_in",
    "mlp.resid_delta": "mlp.post_act",
}
"""Target part → source part of every kind of edge."""


@dataclass(frozen=True)
class Edge:
    """A nonzero weight between two kept nodes."""

    source: Node
    target: Node
    weight: float


def edge_weights(model: SparseTransformer) -> dict[str, Float[Tensor, "W_target W_source"]]:
    """The weights of every edge by target location, in forward order."""
    width = model.config.d_attn
    found: dict[str, Tensor] = {}
    for layer, block in enumerate(model.blocks):
        for number, part in enumerate("qkv"):
            found[f"{layer}.attn.{part}"] = block.attn.c_attn.weight[number * width : (number + 1) * width].detach()
        found[f"{layer}.attn.resid_delta"] = block.attn.c_proj.weight.detach()
        found[f"{layer}.mlp.post_act"] = block.mlp.c_fc.weight.detach()
        found[f"{layer}.mlp.resid_delta"] = block.mlp.c_proj.weight.detach()
    return found


def source_of(target: str) -> str:
    """The location whose nodes the nodes at `target` read."""
    layer, _, part = target.partition(".")
    return f"{layer}.{SOURCES[part]}"


def edges_between(
    model: SparseTransformer, keep: Mapping[str, Tensor], edges: Mapping[str, Tensor] | None = None
) -> dict[str, Bool[Tensor, "W_target W_source"]]:
    """By target location, True where a nonzero weight joins two kept nodes and is not removed."""
    found = {}
    for target, weight in edge_weights(model).items():
        found[target] = (weight != 0) & keep[source_of(target)][None, :].bool() & keep[target][:, None].bool()
        if edges is not None and target in edges:
            found[target] &= edges[target].to(weight.device)
    return found


def circuit_edges(
    model: SparseTransformer, keep: Mapping[str, Tensor], edges: Mapping[str, Tensor] | None = None
) -> Iterator[Edge]:
    """Every edge of a circuit, in forward order.

    Args:
        edges: edge masks by target location; None: every nonzero weight between kept nodes is one.
    """
    weights = edge_weights(model)
    for target, between in edges_between(model, keep, edges).items():
        source = source_of(target)
        for row, column in between.nonzero().tolist():
            weight = float(weights[target][row, column])
            yield Edge(Node.parse(f"{source}:{column}"), Node.parse(f"{target}:{row}"), weight)


def count_edges(model: SparseTransformer, keep: Mapping[str, Tensor], edges: Mapping[str, Tensor] | None = None) -> int:
    """How many edges `circuit_edges` gives."""
    return sum(int(between.sum()) for between in edges_between(model, keep, edges).values())


@torch.no_grad()
def cut_edges(
    model: SparseTransformer, edges: Mapping[str, Bool[Tensor, "W_target W_source"]], values: Mapping[str, Tensor]
) -> SparseTransformer:
    """The model in which every removed edge carries its source's ablation value; all else is shared with `model`.

    Args:
        edges: by target location, False where removed.
        values: ablation value per node location [W].
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    cut = copy.deepcopy(model, shared)
    everything = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in edge_weights(model).items()}
    masks = {**everything, **{name: mask.to(model.device) for name, mask in edges.items()}}
    for layer, block in enumerate(cut.blocks):
        attention, mlp = f"{layer}.attn", f"{layer}.mlp"
        heads = torch.cat([masks[f"{attention}.{part}"] for part in "qkv"])
        block.attn.c_attn = _cut(block.attn.c_attn, heads, values[f"{attention}.act_in"])
        out = masks[f"{attention}.resid_delta"]
        block.attn.c_proj = _cut(block.attn.c_proj, out, values[f"{attention}.v"])
        block.mlp.c_fc = _cut(block.mlp.c_fc, masks[f"{mlp}.post_act"], values[f"{mlp}.act_in"])
        written = masks[f"{mlp}.resid_delta"]
        block.mlp.c_proj = _cut(block.mlp.c_proj, written, values[f"{mlp}.post_act"])
    return cut


def _cut(linear: Map, mask: Tensor, value: Tensor) -> Map:
    made = type(linear)(linear.in_features, linear.out_features, device=linear.weight.device, dtype=linear.weight.dtype)
    made.requires_grad_(False)
    made.weight.copy_(linear.weight * mask)
    constant = (linear.weight * ~mask) @ value.to(linear.weight)
    made.bias.copy_(constant if linear.bias is None else linear.bias + constant)
    return made


def drop_unread(
    model: SparseTransformer, keep: Mapping[str, Bool[Tensor, " W"]], edges: Mapping[str, Tensor] | None = None
) -> dict[str, Bool[Tensor, " W"]]:
    """Remove kept nodes that no kept node reads.

    act_in, v and post_act need an outgoing edge. Queries and keys stay: frozen, they still shape attention. Repeats
    until nothing changes. Exactly the same output where AbsTopK is off; where it is on, a node also has a say in which of
    its readers' channels are among the k largest, so the output can change and is to be checked.
    """
    found = {name: mask.clone() for name, mask in keep.items()}
    while True:
        before = sum(int(mask.sum()) for mask in found.values())
        read: dict[str, Tensor] = {}
        for target, between in edges_between(model, found, edges).items():
            source = source_of(target)
            read[source] = read.get(source, torch.zeros_like(found[source])) | between.any(0)
        for source, mask in read.items():
            found[source] &= mask
        if sum(int(mask.sum()) for mask in found.values()) == before:
            return found
