"""Evaluation of a bridge on held-out text.

Per aligned site: NMSE both ways (1 = predicting the mean), with and without massive activations (`bridges.massive`), and the
KL of a single crossing both ways. Overall:
cross-entropy of the dense and the sparse model, KL(dense ‖ sparse), KL on random mixed paths, and as a yardstick the
KL of predicting the text's own unigram frequencies. All in nats per token with bootstrap intervals over sequences.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from bridges.bridge import Bridge
from bridges.losses import kl_per_token
from bridges.massive import after_first, first_over_rest, massive_channels, mean_rms, nmse_three_ways
from bridges.mixed_paths import MixedPath, follow
from bridges.objective import run_tails
from bridges.protocol import ResidualStack, residual_sites
from foundation.statistics import mean_estimate
from sparse_model.training.projection import density_report
from sparse_model.transformer.model import SparseTransformer


@dataclass(frozen=True)
class BridgeEvaluation:
    """Figures of one bridge on one text; see `to_json` for the keys."""

    overall: dict[str, Any]
    sites: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """`ce_dense`, `ce_sparse`, `kl_dense_sparse`, `kl_mixed_paths`, `kl_unigram` (each value, low, high),
        `density`, `tokens`, `unmet_sparse_sites` (which meet no dense one), and per site `nmse_encoder`, `nmse_decoder`,
        `rms_dense` (RMS of the dense stream over channels, averaged over tokens: its unit), `kl_dense_to_sparse` and
        `kl_sparse_to_dense`, all of these and `kl_dense_sparse` also after the first position (`…_later`), NMSEs there in
        ordinary channels too (`…_ordinary`), `massive_channels` of the dense stream, `first_over_rest` (its RMS at the first
        position over the others')."""
        return {**self.overall, "sites": self.sites}


@torch.no_grad()
def evaluate_bridge(
    sparse: SparseTransformer,
    dense: ResidualStack,
    bridge: Bridge,
    blocks: NDArray[np.integer],
    batch_size: int = 16,
    mixed_paths: int = 8,
    seed: int = 0,
    device: str = "cpu",
) -> BridgeEvaluation:
    """Evaluate on token blocks [N, T].

    Args:
        mixed_paths: random paths per batch.
    """
    collected: dict[str, list[Tensor]] = {}
    per_site: list[dict[str, list[float]]] = [{} for _ in bridge.alignment.sites]
    massive: list[tuple[Tensor, Tensor]] = []
    counts = torch.ones(sparse.config.vocab_size)
    counts.scatter_add_(0, torch.from_numpy(np.asarray(blocks, dtype=np.int64)).flatten(), torch.ones(blocks.size))
    unigram = (counts / counts.sum()).log().to(device)
    generator = torch.Generator().manual_seed(seed)
    starts = range(0, len(blocks), batch_size)
    for start in tqdm(starts, desc="evaluating bridge", unit="batch", delay=2, leave=False):
        tokens = torch.from_numpy(np.asarray(blocks[start : start + batch_size], dtype=np.int64)).to(device)
        batch = _one_batch(sparse, dense, bridge, tokens, unigram, mixed_paths, generator, massive)
        for name, value in batch[0].items():
            collected.setdefault(name, []).append(value)
        for site, figures in zip(per_site, batch[1], strict=True):
            for name, figure in figures.items():
                site.setdefault(name, []).append(figure)
    overall: dict[str, Any] = {
        name: mean_estimate(torch.cat(values).double().cpu().numpy(), seed).to_json()
        for name, values in collected.items()
    }
    overall["density"] = density_report(sparse)["total"]
    overall["tokens"] = int(blocks.size)
    overall["unmet_sparse_sites"] = list(bridge.alignment.unmet)
    sites = [
        {
            "sparse_site": aligned.sparse,
            "dense_site": aligned.dense,
            "massive_channels": int(channels.sum()),
            **{name: float(np.mean(v)) for name, v in figures.items()},
        }
        for aligned, figures, (_, channels) in zip(bridge.alignment.sites, per_site, massive, strict=True)
    ]
    return BridgeEvaluation(overall, sites)


def _one_batch(
    sparse: SparseTransformer,
    dense: ResidualStack,
    bridge: Bridge,
    tokens: Tensor,
    unigram: Tensor,
    paths: int,
    generator: torch.Generator,
    massive: list[tuple[Tensor, Tensor]],
) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """`massive` holds each place's massive channels, sparse and dense, as the first batch has them; it is filled if empty."""
    sites = bridge.alignment.sites
    walks = sparse.walk(tokens), dense.walk(tokens)
    h_sparse, h_dense = residual_sites(sparse, walks[0]), residual_sites(dense, walks[1])
    logits_sparse, logits_dense = walks[0].unembed(h_sparse[-1]), walks[1].unembed(h_dense[-1])
    target = F.log_softmax(logits_dense.float(), dim=-1)

    def kl_both(logits: Tensor) -> tuple[Tensor, Tensor]:
        """Per sequence, over all positions and after the first."""
        each = kl_per_token(target, logits)
        return each.mean(-1), after_first(each[..., None])[..., 0].mean(-1)

    def kl(logits: Tensor) -> Tensor:
        return kl_both(logits)[0]

    def cross_entropy(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), tokens[:, 1:], reduction="none").mean(-1)

    overall = {
        "ce_dense": cross_entropy(logits_dense),
        "ce_sparse": cross_entropy(logits_sparse),
        **dict(zip(("kl_dense_sparse", "kl_dense_sparse_later"), kl_both(logits_sparse), strict=True)),
        "kl_unigram": kl(unigram.expand_as(target)),
    }
    mixed = []
    for _ in range(paths):
        path = MixedPath.draw(len(sites) - 1, generator)
        mixed.append(kl(follow(path, bridge, walks[0], walks[1])))
    if mixed:
        overall["kl_mixed_paths"] = torch.stack(mixed).mean(0)
    if not massive:
        massive += [(massive_channels(h_sparse[s.sparse]), massive_channels(h_dense[s.dense])) for s in sites]
    figures = []
    for j, site in enumerate(sites):
        encoded, decoded = bridge.encode(j, h_dense[site.dense]), bridge.decode(j, h_sparse[site.sparse])
        into_sparse = kl_both(walks[0].unembed(run_tails(sparse, walks[0], {site.sparse: encoded})))
        into_dense = kl_both(walks[1].unembed(run_tails(dense, walks[1], {site.dense: decoded})))
        encoder = nmse_three_ways(encoded, h_sparse[site.sparse], massive[j][0])
        decoder = nmse_three_ways(decoded, h_dense[site.dense], massive[j][1])
        figures.append(
            {
                **{f"nmse_encoder{which}": value for which, value in encoder.items()},
                **{f"nmse_decoder{which}": value for which, value in decoder.items()},
                "first_over_rest": first_over_rest(h_dense[site.dense]),
                "rms_dense": mean_rms(h_dense[site.dense]).item(),
                "rms_dense_later": mean_rms(after_first(h_dense[site.dense])).item(),
                "kl_dense_to_sparse": into_sparse[0].mean().item(),
                "kl_dense_to_sparse_later": into_sparse[1].mean().item(),
                "kl_sparse_to_dense": into_dense[0].mean().item(),
                "kl_sparse_to_dense_later": into_dense[1].mean().item(),
            }
        )
    return overall, figures
