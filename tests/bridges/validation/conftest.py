"""Tiny models with a bridge, reference text, and pairs of prompts that differ in one token in the middle."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from bridges.bridge import Bridge
from bridges.validation.contrast import Contrast
from bridges.validation.isolation import ReferenceText
from dense_adapters import DenseStack
from sparse_model import SparseTransformer
from sparse_model.tasks.splits import Splits
from sparse_model.tasks.task import TextPair
from sparse_model.tasks.token_pairs import TokenPairs

CHANGED = 2


class Validated(NamedTuple):
    """Two models, their bridge, text and pairs."""

    sparse: SparseTransformer
    dense: DenseStack
    bridge: Bridge
    text: ReferenceText
    splits: Splits

    @property
    def contrast(self) -> Contrast:
        """The held-out pairs, both directions."""
        return Contrast.of(self.splits.held_out)


def token_pairs(n: int, seed: int, width: int = 7) -> TokenPairs:
    """Random prompts; every third pair is a token shorter, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(0, 40, (n, width), generator=generator)
    b = a.clone()
    b[:, CHANGED] = (a[:, CHANGED] + 11) % 40
    last = torch.full((n,), width - 1)
    last[::3] -= 1
    answer = torch.randint(0, 20, (n,), generator=generator)
    mask = torch.arange(width)[None] <= last[:, None]
    template = tuple(f"t{i % 3}" for i in range(n))
    texts = tuple(TextPair("a", "x", "", "b", "y", "", name) for name in template)
    return TokenPairs("tiny", a, b, last, answer, answer + 20, mask, template, texts, {})


@pytest.fixture(scope="session")
def validated(pair: Callable) -> Validated:
    """Random models, so that nothing explains anything."""
    sparse, dense, bridge = pair()
    for module in (sparse, dense.model, bridge):
        module.requires_grad_(False)
    blocks = torch.randint(0, 40, (6, 14), generator=torch.Generator().manual_seed(5)).numpy()
    splits = Splits(*(token_pairs(6, seed) for seed in (1, 2, 3)))
    return Validated(sparse, dense, bridge, ReferenceText(dense, blocks), splits)
