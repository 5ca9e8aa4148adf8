"""The bridged objective (METHOD §4): what the sparse model and the bridges are trained on together.

    total = CE(sparse) + KL(y^d ‖ y^s) + c₁ M2 + c₂ M3 + c₃ M4
    M2  NMSE of encoders against the (detached) sparse stream and of decoders against the dense stream
    M3  KL(y^d ‖ sparse tail started from f_i(h^d_i)), summed over sites
    M4  KL(y^d ‖ dense tail started from g_i(h^s_i)), summed over sites

All tails of one kind run as one batch: the stream that enters at a site is stacked under those already on their
way. A step may cross at a random subset of sites, its terms weighted so that the expectation is the full sum.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from bridges.bridge import Bridge
from bridges.config import BridgeConfig
from bridges.losses import kl_of_streams, nmse
from bridges.massive import after_first
from bridges.protocol import ResidualStack, Walk, residual_sites
from sparse_model.training.objective import Objective, ParameterGroup, next_token_loss, trainable
from sparse_model.transformer.model import SparseTransformer


class BridgedObjective(Objective):
    """Trains `sparse` and `bridge`; `dense` is frozen and only looked at."""

    def __init__(self, sparse: SparseTransformer, dense: ResidualStack, bridge: Bridge, config: BridgeConfig) -> None:
        super().__init__()
        self.sparse, self.bridge, self.config = sparse, bridge, config
        self.projected = sparse
        self._dense = (dense,)  # a tuple, so that the frozen model is not registered as a part to train or save

    def parameter_groups(self) -> list[ParameterGroup]:
        """The sparse model at the run's rate, the bridges at their own."""
        return [
            ParameterGroup("sparse", trainable(self.sparse.parameters())),
            ParameterGroup(
                "bridge", trainable(self.bridge.parameters()), self.config.lr, self.config.eps, self.config.sharkfin
            ),
        ]

    def forward(self, tokens: Int[Tensor, "B T"], draw: int) -> dict[str, Tensor]:
        """Loss terms in nats per token (`nmse` in units of variance), `loss` their weighted sum."""
        config, bridge, sites = self.config, self.bridge, self.bridge.alignment.sites
        (dense,) = self._dense
        B = len(tokens)
        with torch.no_grad():
            dense_walk = dense.walk(tokens)
            h_dense = residual_sites(dense, dense_walk)
            target = DenseTarget(dense_walk, h_dense[-1])
        sparse_walk = self.sparse.walk(tokens)
        h_sparse = residual_sites(self.sparse, sparse_walk)
        logits = sparse_walk.unembed(h_sparse[-1])
        terms = {"cross_entropy": next_token_loss(logits, tokens)}
        terms["kl"] = kl_of_streams(target, sparse_walk.unembed, h_sparse[-1], B, logits.shape[-1]).sum()
        encoded = [bridge.encode(j, h_dense[site.dense]) for j, site in enumerate(sites)]
        decoded = [bridge.decode(j, h_sparse[site.sparse]) for j, site in enumerate(sites)]
        kept = after_first if config.skip_first else _whole
        terms["nmse"] = sum(
            (
                nmse(kept(encoded[j]), kept(h_sparse[site.sparse].detach()))
                + nmse(kept(decoded[j]), kept(h_dense[site.dense]))
                for j, site in enumerate(sites)
            ),
            start=torch.zeros((), device=logits.device),
        )
        chosen = choose_crossings(len(sites), config.crossings, draw)
        weight = len(sites) / len(chosen)
        if config.dense_to_sparse:
            tails = run_tails(self.sparse, sparse_walk, {sites[j].sparse: encoded[j] for j in chosen})
            terms["dense_to_sparse"] = (
                weight * kl_of_streams(target, sparse_walk.unembed, tails, B, logits.shape[-1]).sum()
            )
        if config.sparse_to_dense:
            tails = run_tails(dense, dense_walk, {sites[j].dense: decoded[j] for j in chosen})
            terms["sparse_to_dense"] = (
                weight * kl_of_streams(target, lambda h, _: dense_walk.unembed(h), tails, B, logits.shape[-1]).sum()
            )
        terms["loss"] = (
            config.cross_entropy * terms["cross_entropy"]
            + config.distillation * terms["kl"]
            + config.nmse * terms["nmse"]
            + config.dense_to_sparse * terms.get("dense_to_sparse", torch.zeros(()))
            + config.sparse_to_dense * terms.get("sparse_to_dense", torch.zeros(()))
        )
        return terms


def _whole(h: Tensor) -> Tensor:
    return h


class DenseTarget:
    """The dense model's log-probabilities at a span of positions, kept once made whole."""

    def __init__(self, walk: Walk, h: Float[Tensor, "B T D"]) -> None:
        self.walk, self.h = walk, h
        self._whole: Tensor | None = None

    @torch.no_grad()
    def __call__(self, span: slice) -> Float[Tensor, "B t V"]:
        """Log-probabilities in fp32."""
        is_whole = span.indices(self.h.shape[1]) == (0, self.h.shape[1], 1)
        if is_whole and self._whole is not None:
            return self._whole
        result = F.log_softmax(self.walk.unembed(self.h[:, span]).float(), dim=-1)
        if is_whole:
            self._whole = result
        return result


def choose_crossings(sites: int, count: int, draw: int) -> list[int]:
    """`count` distinct places of `sites`, ascending, a function of `draw`; all of them for 0."""
    if count == 0 or count >= sites:
        return list(range(sites))
    order = torch.randperm(sites, generator=torch.Generator().manual_seed(draw))
    return sorted(order[:count].tolist())


def run_tails(
    stack: ResidualStack, walk: Walk, entries: Mapping[int, Float[Tensor, "B T D"]]
) -> Float[Tensor, "kB T D"]:
    """Final streams of the tails that start at the given sites, stacked in ascending order of site."""
    last = len(stack.sublayers)
    streams: Tensor | None = None
    for i in range(last + 1):
        if i in entries:
            streams = entries[i] if streams is None else torch.cat([streams, entries[i]])
        if i < last and streams is not None:
            streams = walk.sublayer(i, streams)
    if streams is None:
        raise ValueError("no site to start from")
    return streams
