"""A random sparse model with a task it can do by construction, and circuits of it."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from foundation.fingerprints import model_fingerprint
from sparse_model import SparseTransformer
from sparse_model.circuits.circuit import Circuit
from sparse_model.tasks.task import TextPair
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.nodes import node_locations

N, T = 8, 6


class Known(NamedTuple):
    """A model, two splits of a task it does, and values to freeze nodes at."""

    model: SparseTransformer
    train: TokenPairs
    validation: TokenPairs
    values: dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def known(tiny_sparse: Callable[..., SparseTransformer]) -> Known:
    """Prompts differ in one token; the answers are the two tokens the model itself tells apart best."""
    model = tiny_sparse()
    with torch.no_grad():
        model.lm_head.weight *= 8
        for block in model.blocks:
            for weight in (
                block.attn.c_attn.weight,
                block.attn.c_proj.weight,
                block.mlp.c_fc.weight,
                block.mlp.c_proj.weight,
            ):
                weight *= torch.rand(weight.shape, generator=torch.Generator().manual_seed(weight.shape[0])) < 0.2
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(9)
    values = {
        name: 0.3 * torch.randn(width, generator=generator) for name, width in node_locations(model.config).items()
    }
    return Known(model, own_pairs(model, 1), own_pairs(model, 2), values)


def own_pairs(model: SparseTransformer, seed: int, n: int = N) -> TokenPairs:
    """Random pairs, two of them shorter by a token, answered by the model's own preferences."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randint(0, 40, (n, T), generator=generator)
    last = torch.full((n,), T - 1)
    last[:2] = T - 2
    b = a.clone()
    b[torch.arange(n), last] = (a[torch.arange(n), last] + 7) % 40
    with torch.no_grad():
        at_a, at_b = (model(tokens).logits[torch.arange(n), last] for tokens in (a, b))
    margin = torch.minimum(at_a[:, :, None] - at_a[:, None, :], at_b[:, None, :] - at_b[:, :, None])
    best = margin.flatten(1).argmax(1)
    text = tuple(TextPair(f"a{i}", "x", "", f"b{i}", "y", "", "t") for i in range(n))
    mask = torch.arange(T)[None] <= last[:, None]
    return TokenPairs("own", a, b, last, best // 40, best % 40, mask, ("t",) * n, text, {})


def random_keep(model: SparseTransformer, share: float = 0.4, seed: int = 3) -> dict[str, torch.Tensor]:
    """A random share of every location; keys follow their queries."""
    generator = torch.Generator().manual_seed(seed)
    keep: dict[str, torch.Tensor] = {}
    for name, width in node_locations(model.config).items():
        drawn = torch.rand(width, generator=generator) < share
        keep[name] = keep[name[:-1] + "q"].clone() if name.endswith(".k") else drawn
    return keep


@pytest.fixture
def circuit(known: Known) -> Circuit:
    """A random circuit of the known model."""
    return Circuit("own", model_fingerprint(known.model), random_keep(known.model), known.values, "mean")
