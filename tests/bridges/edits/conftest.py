"""Tiny models with a bridge, pairs of prompts, and directions of a few nodes."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from bridges.bridge import Bridge
from dense_adapters import DenseStack
from sparse_model import SparseTransformer


class Direction(NamedTuple):
    """Presented prompts and those to act like [N, T], and the last token of each [N]."""

    base: torch.Tensor
    counterfactual: torch.Tensor
    last: torch.Tensor


class Setting(NamedTuple):
    """Two models, their bridge (ratios away from 1), and prompts."""

    sparse: SparseTransformer
    dense: DenseStack
    bridge: Bridge
    direction: Direction


@pytest.fixture(scope="session")
def setting(pair: Callable) -> Callable[..., Setting]:
    """Keywords as for `pair`."""
    made: dict[str, Setting] = {}

    def make(**changes: object) -> Setting:
        key = repr(sorted(changes.items()))
        if key not in made:
            sparse, dense, bridge = pair(**changes)
            for module in (sparse, dense.model, bridge):
                module.requires_grad_(False)
            bridge.rms_ratio.copy_(torch.linspace(1.5, 2.5, len(bridge.alignment.sites)))
            made[key] = Setting(sparse, dense, bridge, prompts())
        return made[key]

    return make


def prompts(n: int = 4, width: int = 7) -> Direction:
    """Prompts that differ from their counterfactuals in one token in the middle."""
    generator = torch.Generator().manual_seed(5)
    base = torch.randint(0, 40, (n, width), generator=generator)
    other = base.clone()
    other[:, 2] = (base[:, 2] + 11) % 40
    last = torch.full((n,), width - 1)
    last[0] -= 1
    return Direction(base, other, last)
