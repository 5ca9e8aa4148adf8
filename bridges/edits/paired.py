"""Paired edits (M5): what a circuit says a prompt's counterfactual changes, added to what the dense model reads.

    change the circuit claims    Δa[t] = a_cf[t] − a_base[t]   of each node, from the sparse model on both prompts
    open loop                    add strength · Δa[t] · direction at every site and token
    closed loop                  add only what is still missing: strength · Δa[t] minus what the encoded dense stream has
                                 already changed by, because of the edits upstream

Runs at several strengths, or under several random draws, go through the dense model as one stacked batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bridges.bridge import Bridge
from bridges.edited_walk import SiteChange, edited_walk
from bridges.edits.mapping import SiteDirections
from bridges.protocol import residual_sites
from dense_adapters import DenseStack
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.layers import keep_topk
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.taps import Recorder

Loop = Literal["open", "closed"]


@dataclass(frozen=True)
class Direction:
    """One direction of a set of pairs: the prompts presented, their counterfactuals, and the answers of each."""

    base: Int[Tensor, "N T"]
    counterfactual: Int[Tensor, "N T"]
    last: Int[Tensor, " N"]
    original: Int[Tensor, " N"]
    """answer to the presented prompt"""
    target: Int[Tensor, " N"]
    """answer to the counterfactual"""

    @classmethod
    def of(cls, pairs: TokenPairs, forward: bool) -> "Direction":
        """a → b, or b → a."""
        a, b = (pairs.tokens_a, pairs.tokens_b) if forward else (pairs.tokens_b, pairs.tokens_a)
        original, target = (pairs.answer_a, pairs.answer_b) if forward else (pairs.answer_b, pairs.answer_a)
        width = int(pairs.last.max()) + 1
        return cls(a[:, :width], b[:, :width], pairs.last, original, target)


@dataclass
class EditedRun:
    """What k stacked edited runs gave: final logits [k, N, V] and, per edited site, the activation changes [k, N, T, n],
    the dense changes [k, N, T, D] and the edited reads or residuals [k, N, T, D]."""

    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    changes: list[Tensor] = field(default_factory=list)
    deltas: list[Tensor] = field(default_factory=list)
    edited: list[Tensor] = field(default_factory=list)


class PairedRun:
    """Everything one direction needs, computed once: both models on both prompts.

    Args:
        sites: where and along what the dense model is edited, at most one entry per site and kind.
    """

    @torch.no_grad()
    def __init__(
        self,
        direction: Direction,
        sites: Sequence[SiteDirections],
        bridge: Bridge,
        sparse: SparseTransformer,
        dense: DenseStack,
    ) -> None:
        self.direction, self.sites = direction, sites
        self.bridge, self.sparse, self.dense = bridge, sparse, dense
        self.walk = dense.walk(direction.base)
        self.h_base = residual_sites(dense, self.walk)
        self.walk_cf = dense.walk(direction.counterfactual)
        self.h_cf = residual_sites(dense, self.walk_cf)
        on_base, on_cf = Recorder(), Recorder()
        sparse(direction.base, tap=on_base)
        sparse(direction.counterfactual, tap=on_cf)
        self.claimed = [
            _node_values(site, bridge, sparse, on_cf.activations)
            - _node_values(site, bridge, sparse, on_base.activations)
            for site in sites
        ]
        """Δa per site, [N, T, n]."""
        self._encoded_base = [
            encoded_values(site, bridge, sparse, self.h_base[site.dense_site]) if site.is_readable else None
            for site in sites
        ]

    def with_sites(self, sites: Sequence[SiteDirections]) -> "PairedRun":
        """The same prompts edited elsewhere or along other directions."""
        return PairedRun(self.direction, sites, self.bridge, self.sparse, self.dense)

    def edited(self, strengths: Float[Tensor, " k"], loop: Loop = "open") -> EditedRun:
        """Run the dense model on the presented prompts under the edit at k strengths at once."""
        k, N = len(strengths), len(self.direction.base)
        strengths = strengths.to(self.h_base[0])
        result = EditedRun()

        def change_at(number: int, h: Tensor) -> Tensor:
            site, base = self.sites[number], self._encoded_base[number]
            change = strengths.view(k, 1, 1, 1) * self.claimed[number]
            if loop == "closed" and base is not None:
                now = encoded_values(site, self.bridge, self.sparse, h).view(k, N, *base.shape[1:])
                change = change - (now - base)
            result.changes.append(change)
            result.deltas.append(change @ site.directions)
            return result.deltas[-1].flatten(0, 1)

        result.logits = self._run(k, change_at, result.edited)
        return result

    def with_changes(self, changes: Sequence[Float[Tensor, "k N T D"]]) -> Float[Tensor, "k N V"]:
        """Logits with given dense changes, one set per site, added to the presented prompts' reads (residuals)."""
        return self._run(len(changes[0]), lambda number, _: changes[number].flatten(0, 1))

    @torch.no_grad()
    def patched(self, put: Callable[[int, Tensor, Tensor], Tensor] | None = None) -> Float[Tensor, "N V"]:
        """Logits with the counterfactual's own dense reads (residuals) put in at the edited sites: the upper bound.

        Args:
            put: function (number of the site, value as it is, counterfactual's value) → value; None takes the latter whole.
        """

        def change_at(number: int, h: Tensor) -> Tensor:
            mine, theirs = (
                self.value(number, h, self.walk),
                self.value(number, self.h_cf[self.sites[number].dense_site], self.walk_cf),
            )
            return (theirs if put is None else put(number, mine, theirs)) - mine

        return self._run(1, change_at)[0]

    def value(self, number: int, h: Tensor, walk: object) -> Tensor:
        """What the site edits: the stream h there, or its normed read."""
        site = self.sites[number]
        return h if site.kind == "residual" else walk.read(site.dense_site, h)  # type: ignore[attr-defined]

    def unedited(self) -> Float[Tensor, "N V"]:
        """Logits of the presented prompts as they are."""
        return self._answers(self.h_base[-1], 1)[0]

    @torch.no_grad()
    def _run(
        self, k: int, change_at: Callable[[int, Tensor], Tensor], edited: list[Tensor] | None = None
    ) -> Float[Tensor, "k N V"]:
        """k stacked walks; `change_at(number of the site, stream)` is added to the stream or the read there."""

        def note(value: Tensor) -> Tensor:
            if edited is not None:
                edited.append(value.view(k, -1, *value.shape[1:]))
            return value

        def on_stream(number: int) -> Callable[[Tensor], Tensor]:
            return lambda h: note(h + change_at(number, h))

        def on_read(number: int) -> Callable[[Tensor, Tensor], Tensor]:
            return lambda h, x: note(x + change_at(number, h))

        changes: dict[int, SiteChange] = {}
        for number, site in enumerate(self.sites):
            is_stream = site.kind == "residual"
            fresh = SiteChange(residual=on_stream(number)) if is_stream else SiteChange(read=on_read(number))
            known = changes.get(site.dense_site, SiteChange())
            changes[site.dense_site] = SiteChange(fresh.residual or known.residual, fresh.read or known.read)
        start = self.walk.embedding().repeat(k, 1, 1)
        return self._answers(edited_walk(self.dense, self.walk, start, changes), k)

    @torch.no_grad()
    def _answers(self, h: Tensor, k: int) -> Float[Tensor, "k N V"]:
        rows = torch.arange(len(h), device=h.device)
        at = h[rows, self.direction.last.repeat(k)][:, None]
        return self.walk.unembed(at)[:, 0].view(k, len(h) // k, -1)


def encoded_values(
    site: SiteDirections, bridge: Bridge, sparse: SparseTransformer, h: Float[Tensor, "*B T D"]
) -> Float[Tensor, "*B T n"]:
    """Activations of the site's nodes in the sparse stream that the dense stream h encodes to."""
    stream = bridge.encode(site.place, h)
    channels = [node.channel for node in site.nodes]
    if site.kind == "residual":
        return stream[..., channels]
    sublayer = site.nodes[0].sublayer
    block = sparse.blocks[sublayer // 2]
    read = (block.ln_2 if sublayer % 2 else block.ln_1)(stream)
    return keep_topk(sparse.config, "mlp_in" if sublayer % 2 else "attn_in", read)[..., channels]


def _node_values(
    site: SiteDirections, bridge: Bridge, sparse: SparseTransformer, recorded: Mapping[str, Tensor]
) -> Float[Tensor, "N T n"]:
    """Activations of the site's nodes as the sparse model has them (its stream channels, where the edit is of the stream)."""
    columns = []
    for node in site.nodes:
        location = node.location
        if site.kind == "residual" and node.part == "act_in":
            location = _stream_location(sparse, bridge.alignment.sites[site.place].sparse)
        columns.append(recorded[location][..., node.channel])
    return torch.stack(columns, dim=-1)


def _stream_location(sparse: SparseTransformer, site: int) -> str:
    if site == len(sparse.sublayers):
        return "final_resid"
    return f"{site // 2}.resid_mid" if site % 2 else f"{site // 2}.resid_in"
