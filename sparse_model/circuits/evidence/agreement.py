"""Agreement over seeds: how much of the circuit another seed of the same pruning finds again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from sparse_model.circuits.evidence.finding import Finding
from sparse_model.transformer.nodes import Node, node_locations
from sparse_model.transformer.sparse_config import SparseConfig

CHANCE_DRAWS = 20


@dataclass(frozen=True)
class Agreement(Finding):
    """Jaccard overlaps of node sets, as fractions."""

    seeds: list[int]
    nodes: list[int]
    """per seed"""
    jaccard: float
    """mean over pairs of seeds"""
    lowest: float
    """of any two seeds; few overlaps that share their seeds give no interval"""
    highest: float
    chance: float
    """what random sets of the same sizes per location have, mean over draws"""
    core: list[str]
    """the nodes all seeds share"""

    @property
    def sentence(self) -> str:
        """What the figures mean."""
        return (
            f"{len(self.seeds)} seeds agree on {self.jaccard:.2f} (any two: {self.lowest:.2f} to "
            f"{self.highest:.2f}) of their nodes (Jaccard; chance {self.chance:.2f}) and share "
            f"{len(self.core)} of {min(self.nodes)} to {max(self.nodes)}."
        )


def agreement(config: SparseConfig, runs: Sequence[Mapping[str, Any]], seed: int = 0) -> Agreement | None:
    """Overlap of the node sets of several seeds; None for fewer than two.

    Args:
        config: of the sparse model, for the sizes random sets are drawn from.
        runs: `{"seed": …, "nodes": [names]}` per seed, as in a circuit's metrics.
    """
    if len(runs) < 2:
        return None
    sets = [{str(node) for node in run["nodes"]} for run in runs]
    generator = torch.Generator().manual_seed(seed)
    random = [_overlaps([_like(config, nodes, generator) for nodes in sets]) for _ in range(CHANCE_DRAWS)]
    overlaps = _overlaps(sets)
    return Agreement(
        seeds=[int(str(run["seed"])) for run in runs],
        nodes=[len(nodes) for nodes in sets],
        jaccard=float(np.mean(overlaps)),
        lowest=min(overlaps),
        highest=max(overlaps),
        chance=float(np.mean(random)),
        core=sorted(set.intersection(*sets), key=Node.parse),
    )


def _overlaps(sets: Sequence[set[str]]) -> list[float]:
    return [len(a & b) / max(1, len(a | b)) for a, b in combinations(sets, 2)]


def _like(config: SparseConfig, nodes: set[str], generator: torch.Generator) -> set[str]:
    """As many random nodes per location."""
    counts: dict[str, int] = {}
    for node in nodes:
        counts[Node.parse(node).location] = counts.get(Node.parse(node).location, 0) + 1
    widths = node_locations(config)
    return {
        f"{location}:{channel}"
        for location, count in counts.items()
        for channel in torch.randperm(widths[location], generator=generator)[:count].tolist()
    }
