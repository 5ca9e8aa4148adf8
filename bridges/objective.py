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
from bridges.bridge_config import BridgeConfig
from bridges.distillation import Readout, distil
from bridges.massive import after_first
from bridges.protocol import ResidualStack, Walk, residual_sites
from bridges.site_terms import TERMS
from sparse_model.training.objective import Objective, ParameterGroup, trainable
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
        """Loss terms in nats per token (`nmse` in units of variance); `loss`, their weighted sum, is what has a gradient."""
        config, bridge, sites = self.config, self.bridge, self.bridge.alignment.sites
        (dense,) = self._dense
        with torch.no_grad():
            dense_walk = dense.walk(tokens)
            h_dense = residual_sites(dense, dense_walk)
        sparse_walk = self.sparse.walk(tokens)
        h_sparse = residual_sites(self.sparse, sparse_walk)
        encoded = [bridge.encode(j, h_dense[site.dense]) for j, site in enumerate(sites)]
        decoded = [bridge.decode(j, h_sparse[site.sparse]) for j, site in enumerate(sites)]
        kept = after_first if config.skip_first else _whole
        weights = {name: float(getattr(config, name)) for name in TERMS if getattr(config, name)}
        of_bridges = {
            name: sum(
                (
                    TERMS[name](kept(encoded[j]), kept(h_sparse[site.sparse].detach()))
                    + TERMS[name](kept(decoded[j]), kept(h_dense[site.dense]))
                    for j, site in enumerate(sites)
                ),
                start=torch.zeros((), device=tokens.device),
            )
            for name in weights
        }
        chosen = choose_crossings(len(sites), config.crossings, draw)
        weight = len(sites) / len(chosen)
        into_sparse, learned = sparse_walk.unembed, self.sparse.unembedding_parameters()
        readouts = {"kl": Readout(h_sparse[-1], into_sparse, learned, config.distillation, config.cross_entropy)}
        if config.dense_to_sparse:
            tails = run_tails(self.sparse, sparse_walk, {sites[j].sparse: encoded[j] for j in chosen})
            readouts["dense_to_sparse"] = Readout(tails, into_sparse, learned, weight * config.dense_to_sparse)
        if config.sparse_to_dense:
            tails = run_tails(dense, dense_walk, {sites[j].dense: decoded[j] for j in chosen})
            readouts["sparse_to_dense"] = Readout(
                tails, lambda h, _: dense_walk.unembed(h), (), weight * config.sparse_to_dense
            )

        def target(span: slice) -> Float[Tensor, "B t V"]:
            return F.log_softmax(dense_walk.unembed(h_dense[-1][:, span]).float(), dim=-1)

        found = distil(target, tuple(readouts.values()), tokens, self.sparse.config.vocab_size)
        crossing = {
            name: value if name == "kl" else weight * value for name, value in zip(readouts, found.kl, strict=True)
        }
        return {
            "cross_entropy": found.cross_entropy[0],
            **crossing,
            **of_bridges,
            "loss": sum((weights[name] * value for name, value in of_bridges.items()), start=found.total),
        }


def _whole(h: Tensor) -> Tensor:
    return h


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
