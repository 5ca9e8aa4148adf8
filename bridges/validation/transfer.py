"""Transfer (M6): over a family of interventions, does what the sparse model does predict what the dense model does?

Family, at every inner place and the counted positions, at strength 1: each channel of the circuit by itself, random parts of
the circuit there, all of it, matched sets outside it, all other channels, all channels. Each is done in the whole, unablated
sparse model (e_s) and, through the decoder, in the dense model (e_d). Reported: slope of e_d on e_s through the origin,
share of the variance of e_d that e_s explains (R²) and rank correlation, over resampled templates.
Null: the same sets through bridges that know nothing: decoder columns permuted among live channels, and fresh decoders of the
trained norm.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from tqdm import tqdm

from bridges.bridge import Bridge
from bridges.validation.contrast import masked
from bridges.validation.effects import Shares
from bridges.validation.node_sets import SiteChannels, Translation, matched_sets
from foundation.statistics import Estimate, from_resamples

PARTS = 12
"""Random parts of the circuit, and as many matched sets outside it, per place."""
SINGLES = 24
"""Channels by themselves, per place; the most moved ones where there are more."""
NULLS = 3
"""Bridges of either kind that know nothing."""


@dataclass(frozen=True)
class Intervention:
    """A set of channels at one place, and what kind of set it is."""

    kind: str
    channels: SiteChannels


@dataclass(frozen=True)
class Fit:
    """How well e_s predicts e_d."""

    slope: Estimate
    r2: Estimate
    rank: Estimate

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {name: value.to_json() for name, value in self.__dict__.items()}


@dataclass(frozen=True)
class Transfer:
    """The fit, those of the null bridges, and every point."""

    fit: Fit
    nulls: Mapping[str, Sequence[Fit]]
    points: Sequence[Mapping[str, Any]]

    @property
    def null_r2(self) -> float:
        """The largest mean R² of a kind of null bridge."""
        return max((float(np.mean([fit.r2.value for fit in fits])) for fits in self.nulls.values()), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            **self.fit.to_json(),
            "interventions": len(self.points),
            "nulls": {name: [fit.to_json() for fit in fits] for name, fits in self.nulls.items()},
            "points": list(self.points),
        }


def family(found: Translation, circuit: Mapping[int, SiteChannels], seed: int = 0) -> list[Intervention]:
    """The interventions at the inner places, in order."""
    generator = torch.Generator().manual_seed(seed)
    counted = found.contrast.counted
    interventions: list[Intervention] = []
    for place in found.inner_places:
        every, live = found.everything(place), found.live(place, counted)
        mine = circuit.get(place)
        if mine is not None and len(mine):
            moved = masked(found.sparse_change(mine), counted).abs().mean((0, 1))
            most = sorted(mine.channels, key=lambda c: -float(moved[c]))[:SINGLES]
            interventions += [Intervention("channel", mine.some([c])) for c in most if float(moved[c]) > 0]
            if len(mine) > 2:
                interventions += [Intervention("part", mine.some(_part(mine, generator))) for _ in range(PARTS)]
            interventions.append(Intervention("circuit", mine))
            written = found.written_live(place, counted)
            outside = matched_sets(mine, live, written, PARTS, generator)
            interventions += [Intervention("outside", chosen) for chosen in outside]
            interventions.append(Intervention("complement", every.without(mine)))
        interventions.append(Intervention("all", every))
    return interventions


def _part(channels: SiteChannels, generator: torch.Generator) -> list[int]:
    """Between a quarter and three quarters of the channels."""
    n = len(channels)
    size = int(torch.randint(max(1, n // 4), max(2, 3 * n // 4 + 1), (1,), generator=generator))
    order = torch.randperm(n, generator=generator)[:size].tolist()
    return [channels.channels[i] for i in order]


@torch.no_grad()
def transfer(
    found: Translation,
    circuit: Mapping[int, SiteChannels],
    seed: int = 0,
    nulls: int = NULLS,
    known: dict[SiteChannels, NDArray[np.floating]] | None = None,
) -> Transfer:
    """Measure it on the held-out contrast of `found`.

    Args:
        known: effects in the sparse model on these prompts, by set; what is missing is added.
    """
    known = {} if known is None else known
    interventions = family(found, circuit, seed)
    of_sparse, of_dense = Shares(found.sparse, seed=seed), Shares(found.dense, seed=seed)
    e_s, e_d = [], []
    bridges = {
        "permuted": [permuted(found, seed + n) for n in range(nulls)],
        "untrained": [untrained(found.bridge, seed + n) for n in range(nulls)],
    }
    null_effects: dict[str, list[list[Tensor]]] = {name: [[] for _ in made] for name, made in bridges.items()}
    shown = tqdm(interventions, desc="transfer", unit="set", delay=2, leave=False)
    for one in shown:
        site = found.bridge.alignment.sites[one.channels.place]
        change = masked(found.sparse_change(one.channels), found.contrast.counted)
        if one.channels not in known:
            known[one.channels] = of_sparse.resampled(found.sparse.edited(site.sparse, change[None])[0])
        e_s.append(known[one.channels])
        carried = [found.dense_change(one.channels.place, change)]
        carried += [
            found.with_bridge(bridge).dense_change(one.channels.place, change)
            for made in bridges.values()
            for bridge in made
        ]
        answers = found.dense.edited(site.dense, torch.stack(carried))
        values = of_dense.resampled(answers)
        e_d.append(values[0])
        rest: Iterator[NDArray[Any]] = iter(values[1:])
        for lists in null_effects.values():
            for kept in lists:
                kept.append(torch.from_numpy(next(rest)))
    predicted, measured = np.stack(e_s), np.stack(e_d)
    fits = {name: [fit(predicted, torch.stack(kept).numpy()) for kept in lists] for name, lists in null_effects.items()}
    points = [
        {
            "kind": one.kind,
            "place": one.channels.place,
            "channels": len(one.channels),
            "predicted": float(predicted[j, 0]),
            "measured": from_resamples(measured[j]).to_json(),
        }
        for j, one in enumerate(interventions)
    ]
    return Transfer(fit(predicted, measured), fits, points)


def fit(predicted: Float[np.ndarray, "J R"], measured: Float[np.ndarray, "J R"]) -> Fit:
    """Slope through the origin, R² and rank correlation of J interventions, per resample of the templates.

    R² = 1 − Σ(e_d − slope·e_s)² / Σ(e_d − mean e_d)², no less than −1.
    """
    square = (predicted**2).sum(0)
    slope = (predicted * measured).sum(0) / np.where(square > 0, square, np.nan)
    residual = ((measured - slope * predicted) ** 2).sum(0)
    spread = ((measured - measured.mean(0)) ** 2).sum(0)
    r2 = np.maximum(1 - residual / np.where(spread > 0, spread, np.nan), -1.0)
    if len(predicted) > 2:
        ranks = [stats.rankdata(values, axis=0) for values in (predicted, measured)]
        centred = [rank - rank.mean(0) for rank in ranks]
        rank = (centred[0] * centred[1]).sum(0) / np.sqrt((centred[0] ** 2).sum(0) * (centred[1] ** 2).sum(0) + 1e-30)
    else:
        rank = np.full(predicted.shape[1], np.nan)
    return Fit(*(from_resamples(np.nan_to_num(values, nan=0.0)) for values in (slope, r2, rank)))


def permuted(found: Translation, seed: int) -> Bridge:
    """The bridge with its decoder columns shuffled among the channels that differ between the prompts, place by place."""
    generator = torch.Generator().manual_seed(seed)
    weights = []
    for place, decoder in enumerate(found.bridge.decoders):
        live = found.live(place, found.contrast.counted | found.contrast.role("changed")).nonzero().flatten()
        weight = decoder.weight.detach().clone()
        order = live[torch.randperm(len(live), generator=generator).to(live.device)]
        weight[:, live] = weight[:, order]
        weights.append(weight)
    return _with_decoders(found.bridge, weights)


def untrained(bridge: Bridge, seed: int) -> Bridge:
    """A bridge with fresh random decoders, each column of the trained one's norm."""
    generator = torch.Generator().manual_seed(seed)
    weights = []
    for decoder in bridge.decoders:
        weight = decoder.weight.detach()
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        weights.append(drawn / drawn.norm(dim=0, keepdim=True) * weight.norm(dim=0, keepdim=True))
    return _with_decoders(bridge, weights)


def _with_decoders(bridge: Bridge, weights: Sequence[Tensor]) -> Bridge:
    """A bridge of the same alignment with other decoder weights [D, S], one per place."""
    other = Bridge(bridge.alignment, bridge.d_sparse, bridge.d_dense, bridge.topk_fraction)
    for mine, theirs, weight in zip(other.decoders, bridge.decoders, weights, strict=True):
        mine.weight, mine.bias = (nn.Parameter(value, requires_grad=False) for value in (weight, theirs.bias.detach()))
    return other
