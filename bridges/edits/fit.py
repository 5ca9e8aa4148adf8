"""Fitting standing edits to a task: which nodes, at which site, with which class means (METHOD §5).

A class mean is taken over the tokens at which the two prompts of a pair differ most in the encoded nodes, the corpus
mean and spread over reference text. The site and the strength are chosen on validation pairs by the caller.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from bridges.bridge import Bridge
from bridges.edits.mapping import map_nodes
from bridges.edits.readout import Readout, channels_of
from bridges.edits.rules import Move, find_rule
from bridges.edits.standing import StandingEdit, StandingSite
from dense_adapters import DenseStack, LeftOut
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


@torch.no_grad()
def fit_move(
    readout: Readout,
    h_a: Float[Tensor, "N T D"],
    h_b: Float[Tensor, "N T D"],
    allowed: Bool[Tensor, "N T"],
    corpus_h: Float[Tensor, "M U D"],
    written: Float[Tensor, "N T n"] | None = None,
    corpus_kept: Bool[Tensor, "M U"] | None = None,
) -> Move:
    """The rule a → b, from the dense streams of both prompts of each pair and of reference text at the same site.

    Args:
        allowed: positions a class may be read off; leaving out the changed tokens keeps the rule from re-embedding them.
        written: b − a of what the rule writes, where that is known better than by the readout (the sparse model's activations).
        corpus_kept: positions of the reference text that count; None means all.
    """
    z_a, z_b, corpus = readout(h_a), readout(h_b), _counted(readout(corpus_h), corpus_kept)
    contrast = contrast_tokens(z_a, z_b, allowed)
    a, b = z_a[contrast], z_b[contrast]
    whiten = _whitening([a - a.mean(0), b - b.mean(0)], corpus - corpus.mean(0))
    radius = torch.quantile(((a - a.mean(0)) @ whiten).norm(dim=-1), 0.95) * REACH
    shift = (b - a if written is None else written[contrast]).mean(0)
    return Move(a.mean(0), b.mean(0), corpus.mean(0), whiten, shift, float(radius))


def _counted(z: Float[Tensor, "M U n"], kept: Bool[Tensor, "M U"] | None) -> Float[Tensor, "P n"]:
    """The positions of reference text that count, one below the other."""
    return z.flatten(0, 1) if kept is None else z[kept]


def contrast_tokens(
    z_a: Float[Tensor, "N T n"], z_b: Float[Tensor, "N T n"], allowed: Bool[Tensor, "N T"]
) -> Bool[Tensor, "N T"]:
    """Where the two prompts of a pair differ most, among the allowed positions."""
    gap = (z_a - z_b).norm(dim=-1).masked_fill(~allowed, 0.0)
    return allowed & (gap >= CONTRAST * gap.amax(1, keepdim=True).clamp(min=1e-9))


def _whitening(classes: Sequence[Tensor], corpus: Tensor) -> Float[Tensor, "n n"]:
    """Inverse square root of the pooled covariance (half classes, half corpus), shrunk to its diagonal."""

    def covariance(centred: Tensor) -> Tensor:
        return centred.T @ centred / max(1, len(centred))

    pooled = 0.5 * covariance(torch.cat(list(classes))) + 0.5 * covariance(corpus)
    diagonal = torch.diag(pooled.diagonal() + pooled.diagonal().mean() * 1e-3)
    values, vectors = torch.linalg.eigh((1 - SHRINKAGE) * pooled + SHRINKAGE * diagonal)
    return vectors @ torch.diag(values.clamp(min=1e-12).rsqrt()) @ vectors.T


def node_edit(
    nodes: Sequence[Node],
    rule: str,
    values: Mapping[str, float],
    bridge: Bridge,
    sparse: SparseTransformer,
    dense: DenseStack,
    corpus_h: Sequence[Tensor],
    task: str = "",
    left_out: LeftOut = LeftOut(),
    corpus_tokens: Int[Tensor, "M U"] | None = None,
) -> StandingEdit:
    """A standing edit of chosen read or write nodes by one of `rules.rules_of_nodes()`.

    Args:
        values: `value` where the rule needs one, in stream units of the sparse model, for every node.
        left_out: positions that the edit never touches, left out of corpus means too; then `corpus_tokens` are needed.

    Raises:
        UserError: the rule needs a class contrast, a value is missing, or a node does not map.
    """
    kept = left_out.kept(corpus_tokens) if left_out and corpus_tokens is not None else None
    sites = []
    for mapped in map_nodes(nodes, bridge, sparse, dense):
        if any(node.part == "post_act" for node in mapped.nodes):
            raise UserError("a neuron cannot be read off the dense stream; standing edits take read and write nodes")
        readout, decoder = channels_of(bridge, mapped.place, tuple(node.channel for node in mapped.nodes))
        corpus = _counted(readout(corpus_h[mapped.dense_site]), kept)
        chosen = find_rule(rule).of_nodes(corpus, values.get("value"))
        names = tuple(map(str, mapped.nodes))
        sites.append(StandingSite(mapped.dense_site, names, readout, decoder, chosen))
    claim = f"{rule} {', '.join(map(str, nodes))}"
    return StandingEdit(
        task=task, claim=claim, model_fingerprint=dense.fingerprint, sites=tuple(sites), left_out=left_out
    )
