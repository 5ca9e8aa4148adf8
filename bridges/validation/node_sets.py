"""Node sets as changes of the residual stream, in the sparse model and, through the decoders, in the dense one (METHOD §6).

An intervention gives some nodes their counterfactual values at one site, at some positions, at strength 1:

    a read node      changes its stream channel at its own site, by the channel's whole difference
    a write node     changes its channel after its sublayer, by the difference of what that sublayer wrote there
    Δh^s             the sum, each channel once (a channel that is read there counts as read)
    Δh^d             Δh^s · W_decᵀ, at the dense site that meets the sparse one

Nodes inside a sublayer (queries, keys, values, neurons) act through what the sublayer writes. A site of the sparse model
that meets no dense site has no place here; `unplaced` names its nodes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bridges.bridge import Bridge
from bridges.protocol import ResidualStack
from bridges.validation.contrast import Contrast, Streams, masked
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.nodes import Node
from sparse_model.transformer.taps import Recorder


@dataclass(frozen=True)
class SiteChannels:
    """Stream channels of a node set at one place of the alignment: those it reads there, and those just written alone."""

    place: int
    read: tuple[int, ...]
    written: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.read) + len(self.written)

    @property
    def channels(self) -> tuple[int, ...]:
        """All of them, in order."""
        return tuple(sorted((*self.read, *self.written)))

    def without(self, other: "SiteChannels") -> "SiteChannels":
        """Channels that are not the other's."""
        return self.some(set(self.channels) - set(other.channels))

    def some(self, chosen: Iterable[int]) -> "SiteChannels":
        """The chosen channels of it."""
        wanted = set(chosen)
        return SiteChannels(
            self.place,
            tuple(c for c in self.read if c in wanted),
            tuple(c for c in self.written if c in wanted),
        )


def by_place(nodes: Iterable[Node], bridge: Bridge, d_model: int) -> dict[int, SiteChannels]:
    """Place j → channels of a node set there; places where it has none are left out."""
    read: dict[int, set[int]] = {}
    written: dict[int, set[int]] = {}
    for node in nodes:
        if node.part == "act_in" and node.channel < d_model:
            read.setdefault(node.sublayer, set()).add(node.channel)
        elif node.part == "resid_delta":
            written.setdefault(node.sublayer + 1, set()).add(node.channel)
    found = {}
    for place, site in enumerate(bridge.alignment.sites):
        reads = read.get(site.sparse, set())
        writes = written.get(site.sparse, set()) - reads
        if reads or writes:
            found[place] = SiteChannels(place, tuple(sorted(reads)), tuple(sorted(writes)))
    return found


class Translation:
    """The sparse model, the dense model and the bridge on one contrast: from node sets to answers in both.

    Args:
        bridge: whose decoders carry changes over. `with_bridge` takes another one on the same streams.
    """

    @torch.no_grad()
    def __init__(self, contrast: Contrast, sparse: SparseTransformer, dense: ResidualStack, bridge: Bridge) -> None:
        self.contrast, self.bridge = contrast, bridge
        sites = bridge.alignment.sites
        self.sparse = Streams(sparse, contrast, [site.sparse for site in sites])
        self.dense = Streams(dense, contrast, [site.dense for site in sites])
        self._writes = _write_differences(sparse, contrast)

    def with_bridge(self, bridge: Bridge) -> "Translation":
        """The same streams, carried over by another bridge of the same alignment."""
        other = object.__new__(Translation)
        other.__dict__.update(self.__dict__)
        other.bridge = bridge
        return other

    @property
    def inner_places(self) -> tuple[int, ...]:
        """Places a verdict may rest on: neither the embedding nor the final stream of either model."""
        return tuple(
            place
            for place, site in enumerate(self.bridge.alignment.sites)
            if 0 < site.sparse < self.sparse.end and 0 < site.dense < self.dense.end
        )

    def sparse_change(self, channels: SiteChannels) -> Float[Tensor, "M T S"]:
        """Δh^s of a set."""
        site = self.bridge.alignment.sites[channels.place].sparse
        whole = self.sparse.difference(site)
        change = torch.zeros_like(whole)
        if channels.read:
            index = torch.tensor(channels.read, device=whole.device)
            change[..., index] = whole[..., index]
        if channels.written:
            index = torch.tensor(channels.written, device=whole.device)
            change[..., index] = self._writes[site - 1][..., index]
        return change

    def dense_change(self, place: int, change: Float[Tensor, "*k M T S"]) -> Float[Tensor, "*k M T D"]:
        """Δh^d of Δh^s."""
        return change @ self.bridge.decoders[place].weight.detach().T.to(change)

    def everything(self, place: int) -> SiteChannels:
        """All channels of the stream, as read."""
        return SiteChannels(place, tuple(range(self.bridge.d_sparse)), ())

    def live(self, place: int, positions: Bool[Tensor, "M T"]) -> Bool[Tensor, " S"]:
        """Channels whose stream differs between the two prompts somewhere at the positions."""
        whole = masked(self.sparse.difference(self.bridge.alignment.sites[place].sparse), positions)
        return whole.abs().amax((0, 1)) > 0

    def written_live(self, place: int, positions: Bool[Tensor, "M T"]) -> Bool[Tensor, " S"]:
        """Channels that the sublayer before the place writes differently to somewhere at the positions."""
        site = self.bridge.alignment.sites[place].sparse
        if site == 0:
            return torch.zeros(self.bridge.d_sparse, dtype=torch.bool, device=positions.device)
        return masked(self._writes[site - 1], positions).abs().amax((0, 1)) > 0


def matched_sets(
    circuit: SiteChannels,
    read_live: Bool[Tensor, " S"],
    written_live: Bool[Tensor, " S"],
    count: int,
    generator: torch.Generator,
) -> list[SiteChannels]:
    """Sets outside the circuit with as many channels of either kind, drawn among those that differ between the prompts.

    Where fewer are outside than the circuit has, all of them are taken; empty where there are none at all.
    """
    taken = torch.zeros_like(read_live)
    taken[list(circuit.channels)] = True
    pools = [(live & ~taken).nonzero().flatten().cpu() for live in (read_live, written_live)]
    found = []
    for _ in range(count):
        drawn: list[Sequence[int]] = []
        used: Int[Tensor, " n"] = torch.empty(0, dtype=torch.long)
        for pool, wanted in zip(pools, (len(circuit.read), len(circuit.written)), strict=True):
            free = pool[~torch.isin(pool, used)]
            chosen = free[torch.randperm(len(free), generator=generator)[:wanted]]
            used = torch.cat([used, chosen])
            drawn.append(sorted(chosen.tolist()))
        if used.numel():
            found.append(SiteChannels(circuit.place, tuple(drawn[0]), tuple(drawn[1])))
    return found


def scaled_like(change: Float[Tensor, "*k M T D"], like: Float[Tensor, "M T D"]) -> Float[Tensor, "*k M T D"]:
    """A dense change with the other's norm at every token (zero where it is zero itself)."""
    norm = change.norm(dim=-1, keepdim=True)
    return torch.where(norm > 0, change / norm.clamp(min=1e-30) * like.norm(dim=-1, keepdim=True), change)


@torch.no_grad()
def _write_differences(sparse: SparseTransformer, contrast: Contrast) -> list[Float[Tensor, "M T S"]]:
    """Per sublayer, counterfactual − presented of what it adds to the stream."""
    names = [f"{i // 2}.{'mlp' if i % 2 else 'attn'}.resid_delta" for i in range(len(sparse.sublayers))]
    base, other = Recorder(names), Recorder(names)
    sparse(contrast.base, tap=base)
    sparse(contrast.counterfactual, tap=other)
    return [other.activations[name] - base.activations[name] for name in names]
