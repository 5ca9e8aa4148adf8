"""Controls and baselines of a paired edit (METHOD §6): what edits of the same size do that claim nothing.

Controls: one random direction per site, scaled at every token to the norm of the edit's own change; the same nodes through
an untrained bridge; random read nodes of equal number per site through the trained bridge.
Baselines: the mean difference of the classes' dense reads; the dense coordinates that differ most, patched.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from bridges.bridge import Bridge
from bridges.edits.mapping import SiteDirections, map_nodes
from bridges.edits.paired import EditedRun, PairedRun
from bridges.validation.effects import Effect
from dense_adapters import DenseStack
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.nodes import Node

DRAWS_AT_ONCE = 10


@torch.no_grad()
def random_effects(run: PairedRun, edit: EditedRun, draws: int, seed: int) -> list[Effect]:
    """Effects of `draws` random edits: at every site one random direction, scaled at every token to the edit's norm there."""
    generator = torch.Generator().manual_seed(seed)
    effects: list[Effect] = []
    starts = range(0, draws, DRAWS_AT_ONCE)
    for start in tqdm(starts, desc="random directions", unit="batch", delay=2, leave=False):
        count = min(DRAWS_AT_ONCE, draws - start)
        changes = []
        for delta in edit.deltas:
            drawn = torch.randn(count, 1, 1, delta.shape[-1], generator=generator).to(delta)
            changes.append(drawn / drawn.norm(dim=-1, keepdim=True) * delta[0].norm(dim=-1, keepdim=True))
        effects += [Effect.of(logits, run.direction) for logits in run.with_changes(changes)]
    return effects


def untrained_run(run: PairedRun, seed: int) -> PairedRun:
    """The same nodes and claims through a bridge whose weights are random, each direction of the trained one's norm."""
    generator = torch.Generator().manual_seed(seed)
    sites = []
    for site in run.sites:
        drawn = torch.randn(site.directions.shape, generator=generator).to(site.directions)
        drawn *= site.directions.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True)
        sites.append(SiteDirections(site.place, site.dense_site, site.kind, site.nodes, drawn))
    return run.with_sites(sites)


def random_nodes(
    sites: Sequence[SiteDirections], bridge: Bridge, sparse: SparseTransformer, dense: DenseStack, seed: int
) -> tuple[SiteDirections, ...]:
    """Read nodes drawn at random, as many per sublayer as the edit has, mapped like the circuit's."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[Node] = []
    for site in sites:
        by_sublayer: dict[int, int] = {}
        for node in site.nodes:
            by_sublayer[node.sublayer] = by_sublayer.get(node.sublayer, 0) + 1
        for sublayer, count in by_sublayer.items():
            channels = torch.randperm(sparse.d_model, generator=generator)[:count].tolist()
            drawn += [Node(sublayer // 2, "mlp" if sublayer % 2 else "attn", "act_in", channel) for channel in channels]
    return map_nodes(drawn, bridge, sparse, dense)


@torch.no_grad()
def class_mean_effect(run: PairedRun, training: PairedRun) -> Effect:
    """Baseline: add the mean difference of the classes' dense reads, token by token counted from the end of the prompt."""
    changes = [_from_the_end(_aligned_mean(training, number), run)[None] for number in range(len(run.sites))]
    return Effect.of(run.with_changes(changes)[0], run.direction)


def _gap(run: PairedRun, number: int) -> Float[Tensor, "N T D"]:
    """Counterfactual − base of the dense reads (residuals) at a site."""
    i = run.sites[number].dense_site
    return run.value(number, run.h_cf[i], run.walk_cf) - run.value(number, run.h_base[i], run.walk)


def _distance_from_end(run: PairedRun) -> Int[Tensor, "N T"]:
    """0 at the last token, 1 before it; negative in the padding."""
    T = run.direction.base.shape[1]
    return run.direction.last[:, None] - torch.arange(T, device=run.direction.last.device)[None]


def _aligned_mean(run: PairedRun, number: int) -> Float[Tensor, "T D"]:
    """Mean gap by distance from the last token (row 0)."""
    gap, place = _gap(run, number), _distance_from_end(run)
    inside = place >= 0
    total = torch.zeros_like(gap[0]).index_add_(0, place[inside], gap[inside])
    return total / torch.bincount(place[inside], minlength=len(total)).clamp(min=1)[:, None]


def _from_the_end(mean: Float[Tensor, "M D"], run: PairedRun) -> Float[Tensor, "N T D"]:
    place = _distance_from_end(run)
    inside = (place >= 0) & (place < len(mean))
    return mean[place.clamp(0, len(mean) - 1)] * inside[..., None]


@torch.no_grad()
def best_coordinates_effect(run: PairedRun, training: PairedRun) -> Effect:
    """Baseline: patch the n dense coordinates whose reads differ most on training pairs, n = nodes of the site."""
    best = [
        (gap := _gap(training, number)).abs().mean((0, 1)).topk(min(len(site.nodes), gap.shape[-1])).indices
        for number, site in enumerate(run.sites)
    ]

    def put(number: int, mine: Tensor, theirs: Tensor) -> Tensor:
        return mine.index_copy(-1, best[number], theirs[..., best[number]])

    return Effect.of(run.patched(put), run.direction)


def draws_of(effects: Sequence[Effect]) -> NDArray[np.floating]:
    """Mean logit difference of each effect."""
    return np.array([effect.logit_difference.mean() for effect in effects])
