"""Specificity (M7): the circuit at one place against matched sets outside it, scaled to the same dense norm at every token.

The place is the inner one at which the circuit does most on validation prompts. The statistic is the difference between the
circuit's effect and the sets' mean, with its interval; p is the circuit's rank among them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bridges.validation.contrast import TOKENS_AT_ONCE, Answers, masked
from bridges.validation.effects import Shares
from bridges.validation.node_sets import SiteChannels, Translation, matched_sets, scaled_like
from foundation.errors import UserError
from foundation.statistics import Estimate, from_resamples, permutation_p

LEAST_DRAWS = 99
"""Fewer sets cannot give a p of 0.01."""


@dataclass(frozen=True)
class Specificity:
    """The circuit's effect at its place, that of as many matched sets, and their difference."""

    place: int
    circuit: Estimate
    outside: Estimate
    """mean over the matched sets"""
    difference: Estimate
    p_value: float
    draws: int
    outside_effects: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            "place": self.place,
            "circuit": self.circuit.to_json(),
            "outside": self.outside.to_json(),
            "difference": self.difference.to_json(),
            "p_value": self.p_value,
            "draws": self.draws,
            "outside_effects": list(self.outside_effects),
        }


def check_draws(draws: int) -> None:
    """Refuse a number of sets that could not pass its own gate.

    Raises:
        UserError: fewer than `LEAST_DRAWS`.
    """
    if draws < LEAST_DRAWS:
        raise UserError(
            f"--draws {draws}: p must fall below 0.01, and {draws} sets cannot give less than {1 / (1 + draws):.3f}; "
            f"pass {LEAST_DRAWS} or more"
        )


@torch.no_grad()
def circuit_change(found: Translation, channels: SiteChannels) -> Tensor:
    """Δh^d [M, T, D] of a set at the counted positions."""
    change = masked(found.sparse_change(channels), found.contrast.counted)
    return found.dense_change(channels.place, change)


@torch.no_grad()
def strongest_place(found: Translation, circuit: Mapping[int, SiteChannels], seed: int = 0) -> int | None:
    """The inner place at which the circuit's edit does most (validation prompts); None where it has no channel at any."""
    shares = Shares(found.dense, seed=seed)
    effects = {}
    for place in found.inner_places:
        if place in circuit:
            site = found.bridge.alignment.sites[place].dense
            answers = found.dense.edited(site, circuit_change(found, circuit[place])[None])[0]
            effects[place] = float(shares.resampled(answers)[0])
    return max(effects, key=lambda place: effects[place]) if effects else None


@torch.no_grad()
def specificity(
    found: Translation, channels: SiteChannels, live: tuple[Tensor, Tensor], draws: int = 100, seed: int = 0
) -> Specificity | None:
    """Measure it on held-out prompts; None where there is nothing outside the circuit to compare it to.

    Args:
        live: channels [S] that differ, and that are written differently, on other prompts than these.
    """
    generator = torch.Generator().manual_seed(seed)
    sets = matched_sets(channels, *live, draws, generator)
    if not sets:
        return None
    shares = Shares(found.dense, seed=seed)
    site = found.bridge.alignment.sites[channels.place].dense
    mine = circuit_change(found, channels)
    circuit = shares.resampled(found.dense.edited(site, mine[None])[0])
    at_once = max(1, TOKENS_AT_ONCE // (mine.shape[0] * mine.shape[1]))
    answers: list[Answers] = []
    for start in tqdm(range(0, len(sets), at_once), desc="specificity", unit="batch", delay=2, leave=False):
        drawn = torch.stack([circuit_change(found, chosen) for chosen in sets[start : start + at_once]])
        answers += found.dense.edited(site, scaled_like(drawn, mine))
    outside = shares.resampled(answers)
    return Specificity(
        place=channels.place,
        circuit=from_resamples(circuit),
        outside=from_resamples(outside.mean(0)),
        difference=from_resamples(circuit - outside.mean(0)),
        p_value=permutation_p(float(circuit[0]), outside[:, 0]),
        draws=len(sets),
        outside_effects=tuple(np.sort(outside[:, 0]).tolist()),
    )
