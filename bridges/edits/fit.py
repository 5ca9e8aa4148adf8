"""Fitting standing edits to a task: which nodes, at which site, with which class means (METHOD §5).

A class mean is taken over the tokens at which the two prompts of a pair differ most in the encoded nodes, the corpus
mean and spread over reference text. The site and the strength are chosen on validation pairs by the caller.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from bridges.bridge import Bridge
from bridges.edits.mapping import map_nodes
from bridges.edits.paired import Direction
from bridges.edits.rules import Move, find_rule
from bridges.edits.standing import StandingEdit, StandingSite
from bridges.protocol import residual_sites
from dense_adapters import DenseStack
from foundation.errors import UserError
from sparse_model.circuits.circuit import Circuit
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.nodes import Node

CONTRAST = 0.5
"""A token belongs to a pair's contrast where its nodes differ at least this much of the pair's largest difference."""
SHRINKAGE = 0.1
"""Share of the mean variance added to every node's own before whitening."""
REACH = 1.5
"""Class radius over the 95 % quantile of the class members' distances."""


def stream_channels(circuit: Circuit, sparse: SparseTransformer) -> dict[int, tuple[int, ...]]:
    """Sparse site → stream channels the circuit reads there or has just written there.

    Read nodes of sublayer i count at site i, write nodes of sublayer i at site i + 1.
    """
    found: dict[int, set[int]] = {}
    for node in circuit.nodes:
        if node.part == "act_in" and node.channel < sparse.d_model:
            found.setdefault(node.sublayer, set()).add(node.channel)
        elif node.part == "resid_delta":
            found.setdefault(node.sublayer + 1, set()).add(node.channel)
    return {site: tuple(sorted(channels)) for site, channels in sorted(found.items())}


class MoveFitter:
    """Fits a `move` edit at one aligned site from pairs of one direction (class a = the presented prompts).

    Args:
        place: of the site in the bridge's alignment.
        channels: sparse stream channels that carry the circuit there.
        corpus_h: dense streams [M, T, D] of reference text at the site.
    """

    @torch.no_grad()
    def __init__(self, bridge: Bridge, place: int, channels: Sequence[int], corpus_h: Float[Tensor, "M T D"]) -> None:
        self.bridge, self.place, self.channels = bridge, place, tuple(channels)
        index = torch.tensor(self.channels)
        self.encoder = bridge.encoders[place].weight[index].detach()
        self.bias = bridge.encoders[place].bias[index].detach()
        self.decoder = bridge.decoders[place].weight[:, index].T.detach()
        self.corpus = self._encode(corpus_h).flatten(0, 1)

    def _encode(self, h: Tensor) -> Tensor:
        return h @ self.encoder.T + self.bias

    @torch.no_grad()
    def fit(self, h_a: Float[Tensor, "N T D"], h_b: Float[Tensor, "N T D"], last: Tensor) -> Move:
        """The rule a → b, from the dense streams of both prompts of each pair."""
        z_a, z_b = self._encode(h_a), self._encode(h_b)
        contrast = contrast_tokens(z_a, z_b, last)
        a, b = z_a[contrast], z_b[contrast]
        whiten = _whitening([a - a.mean(0), b - b.mean(0)], self.corpus - self.corpus.mean(0))
        radius = torch.quantile(((a - a.mean(0)) @ whiten).norm(dim=-1), 0.95) * REACH
        return Move(a.mean(0), b.mean(0), self.corpus.mean(0), whiten, float(radius))


def contrast_tokens(z_a: Float[Tensor, "N T n"], z_b: Float[Tensor, "N T n"], last: Tensor) -> Bool[Tensor, "N T"]:
    """Where the two prompts of a pair differ most, up to the last token."""
    gap = (z_a - z_b).norm(dim=-1)
    inside = torch.arange(gap.shape[1], device=gap.device)[None] <= last[:, None]
    gap = gap.masked_fill(~inside, 0.0)
    return gap >= CONTRAST * gap.amax(1, keepdim=True).clamp(min=1e-9)


def _whitening(classes: Sequence[Tensor], corpus: Tensor) -> Float[Tensor, "n n"]:
    """Inverse square root of the pooled covariance (half classes, half corpus), shrunk to its diagonal."""

    def covariance(centred: Tensor) -> Tensor:
        return centred.T @ centred / max(1, len(centred))

    pooled = 0.5 * covariance(torch.cat(list(classes))) + 0.5 * covariance(corpus)
    diagonal = torch.diag(pooled.diagonal() + pooled.diagonal().mean() * 1e-3)
    values, vectors = torch.linalg.eigh((1 - SHRINKAGE) * pooled + SHRINKAGE * diagonal)
    return vectors @ torch.diag(values.clamp(min=1e-12).rsqrt()) @ vectors.T


def move_edit(
    circuit: Circuit,
    direction: Direction,
    bridge: Bridge,
    sparse: SparseTransformer,
    dense: DenseStack,
    place: int,
    corpus_h: Sequence[Tensor],
    claim: str,
) -> StandingEdit:
    """The standing edit of a circuit at one aligned site, residual form.

    Args:
        direction: training prompts (class a) and counterfactuals (class b).
        corpus_h: dense streams of reference text at every dense site, each [M, T, D].

    Raises:
        UserError: the circuit has no stream channels at that site.
    """
    site = bridge.alignment.sites[place]
    channels = stream_channels(circuit, sparse).get(site.sparse, ())
    if not channels:
        raise UserError(
            f"the circuit for '{circuit.task}' reads and writes nothing at sparse site {site.sparse}; choose another"
        )
    fitter = MoveFitter(bridge, place, channels, corpus_h[site.dense])
    with torch.no_grad():
        h_a = residual_sites(dense, dense.walk(direction.base))[site.dense]
        h_b = residual_sites(dense, dense.walk(direction.counterfactual))[site.dense]
    rule = fitter.fit(h_a, h_b, direction.last)
    names = tuple(f"site{site.sparse}:{channel}" for channel in channels)
    return StandingEdit(
        task=circuit.task,
        claim=claim,
        model_fingerprint=dense.fingerprint,
        sites=(StandingSite(site.dense, names, fitter.encoder, fitter.bias, fitter.decoder, rule),),
    )


def node_edit(
    nodes: Sequence[Node],
    rule: str,
    values: Mapping[str, float],
    bridge: Bridge,
    sparse: SparseTransformer,
    dense: DenseStack,
    corpus_h: Sequence[Tensor],
    task: str = "",
) -> StandingEdit:
    """A standing edit of chosen read or write nodes by one of `rules.rules_of_nodes()`.

    Args:
        values: `value` where the rule needs one, in stream units of the sparse model, for every node.

    Raises:
        UserError: the rule needs a class contrast, a value is missing, or a node does not map.
    """
    sites = []
    for mapped in map_nodes(nodes, bridge, sparse, dense):
        if any(node.part == "post_act" for node in mapped.nodes):
            raise UserError("a neuron cannot be read off the dense stream; standing edits take read and write nodes")
        index = torch.tensor([node.channel for node in mapped.nodes])
        encoder, decoder = bridge.encoders[mapped.place], bridge.decoders[mapped.place]
        rows, bias = encoder.weight[index].detach(), encoder.bias[index].detach()
        corpus = (corpus_h[mapped.dense_site] @ rows.T + bias).flatten(0, 1)
        chosen = find_rule(rule).of_nodes(corpus, values.get("value"))
        names = tuple(map(str, mapped.nodes))
        sites.append(StandingSite(mapped.dense_site, names, rows, bias, decoder.weight[:, index].T.detach(), chosen))
    claim = f"{rule} {', '.join(map(str, nodes))}"
    return StandingEdit(task=task, claim=claim, model_fingerprint=dense.fingerprint, sites=tuple(sites))
