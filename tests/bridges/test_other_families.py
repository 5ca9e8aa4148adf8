"""Bridges to parallel blocks and sandwich norms of another depth: every site has its place, and a planted bridge is exact."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from bridges.alignment import align
from bridges.artefact import load_bridge, save_bridge
from bridges.bridge import Bridge
from bridges.edits.mapping import map_nodes
from bridges.evaluate import evaluate_bridge
from bridges.mixed_paths import MixedPath, follow
from bridges.objective import BridgeConfig, BridgedObjective, run_tails
from dense_adapters import DenseStack
from sparse_model.transformer.model import Sublayer
from sparse_model.transformer.nodes import Node
from tests.dense_adapters.tiny_models import CASES, VOCABULARY, WIDTH, build

FAMILIES = {
    "parallel, LayerNorm": ("GPT-NeoX", "parallel (Pythia)"),
    "parallel, one norm, logit scale": ("Cohere", "parallel, logit scale"),
    "sandwich norms": ("Gemma-3", "text, local and global rotary tables"),
    "sequential": ("Llama", "grouped queries"),
}


@pytest.fixture(scope="module", params=FAMILIES, ids=str)
def dense(request: pytest.FixtureRequest) -> DenseStack:
    """A tiny model of three layers."""
    wanted = FAMILIES[request.param]
    return DenseStack(build(next(case for case in CASES if (case.family, case.switch) == wanted)))


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (3, 9), generator=torch.Generator().manual_seed(4))


class Turned:
    """The dense model as a stack of one layer, its stream turned by an orthogonal matrix: its exact bridge is known.

    Sublayer i runs the dense sublayers between the places that sites i and i + 1 meet.
    """

    sublayers = (Sublayer("attention", 0), Sublayer("mlp", 0))

    def __init__(self, dense: DenseStack) -> None:
        self.dense, self.d_model = dense, dense.d_model
        self.turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(2)))[0]
        self.alignment = align(self, dense, "every")
        self.bridge = Bridge(self.alignment, WIDTH, WIDTH, 1.0).requires_grad_(False)
        for encoder, decoder in zip(self.bridge.encoders, self.bridge.decoders, strict=True):
            encoder.weight.copy_(self.turn)
            decoder.weight.copy_(self.turn.T)

    def walk(self, tokens: torch.Tensor, attention_mask: torch.Tensor | None = None) -> "TurnedWalk":
        """A walk in the turned stream."""
        return TurnedWalk(self, self.dense.walk(tokens))


@dataclass
class TurnedWalk:
    """The steps of one batch, in the turned stream."""

    stack: Turned
    inner: Any

    def embedding(self) -> torch.Tensor:
        return self.inner.embedding() @ self.stack.turn.T

    def read(self, i: int, h: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def sublayer(self, i: int, h: torch.Tensor, read: Any = None) -> torch.Tensor:
        here, there = (self.stack.alignment.sites[j].dense for j in (i, i + 1))
        h = h @ self.stack.turn
        for k in range(here, there):
            h = self.inner.sublayer(k, h)
        return h @ self.stack.turn.T

    def unembed(self, h: torch.Tensor) -> torch.Tensor:
        return self.inner.unembed(h @ self.stack.turn)


@torch.no_grad()
def test_every_path_through_a_planted_bridge_ends_in_the_models_own_logits_and_through_a_wrong_one_does_not(
    dense: DenseStack, ids: torch.Tensor
) -> None:
    turned = Turned(dense)
    assert [site.sparse for site in turned.alignment.sites] == [0, 1, 2]
    assert len({site.dense for site in turned.alignment.sites}) == 3
    expected = dense.model(ids).logits
    paths = [MixedPath(tuple(bool(n >> bit & 1) for bit in range(3))) for n in range(8)]

    def ends(path: MixedPath) -> torch.Tensor:
        return follow(path, turned.bridge, turned.walk(ids), dense.walk(ids))

    for path in paths:
        torch.testing.assert_close(ends(path), expected, atol=1e-3, rtol=1e-3)
    turned.bridge.decoders[1].weight.copy_(turned.turn)
    assert not torch.allclose(ends(MixedPath((False, True, True))), expected, atol=1e-2)


def test_a_sparse_model_bridged_at_every_site_trains_and_its_artefact_keeps_the_places(
    dense: DenseStack, ids: torch.Tensor, tiny_sparse: Callable, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    sparse = tiny_sparse(n_layer=1, vocab_size=VOCABULARY)
    alignment = align(sparse, dense, "every")
    bridge = Bridge(alignment, sparse.d_model, WIDTH, 0.5)
    objective = BridgedObjective(sparse, dense, bridge, BridgeConfig())
    terms = objective(ids, draw=0)
    terms["loss"].backward()
    for j in range(3):  # every encoder and decoder is trained
        assert bridge.encoders[j].weight.grad.abs().max() > 0
        assert bridge.decoders[j].weight.grad.abs().max() > 0
    with torch.no_grad():
        walk = dense.walk(ids)
        h = walk.embedding()
        for i in range(alignment.sites[1].dense):
            h = walk.sublayer(i, h)
        tail = run_tails(dense, dense.walk(ids), {alignment.sites[1].dense: h})
        torch.testing.assert_close(walk.unembed(tail), dense.model(ids).logits, atol=1e-4, rtol=1e-4)
    found = evaluate_bridge(sparse, dense, bridge, ids.numpy(), batch_size=3, mixed_paths=2)
    assert [(site["sparse_site"], site["dense_site"]) for site in found.sites] == [
        (site.sparse, site.dense) for site in alignment.sites
    ]
    save_bridge(tmp_path, bridge, sparse, tokenizer, {"dense": {"name": "tiny", "fingerprint": dense.fingerprint}})
    assert load_bridge(tmp_path).bridge.alignment == alignment


def test_a_read_of_the_mlp_maps_to_its_own_site_instead_of_the_next_layers(
    dense: DenseStack, tiny_sparse: Callable
) -> None:
    sparse = tiny_sparse(n_layer=1, vocab_size=VOCABULARY).requires_grad_(False)
    alignment = align(sparse, dense, "every")
    bridge = Bridge(alignment, sparse.d_model, WIDTH, 0.5).requires_grad_(False)
    (read,) = map_nodes([Node.parse("0.mlp.act_in:3")], bridge, sparse, dense)
    (write,) = map_nodes([Node.parse("0.mlp.resid_delta:3")], bridge, sparse, dense)
    assert (read.kind, read.place, read.dense_site) == ("residual", 1, alignment.sites[1].dense)
    assert read.dense_site < write.dense_site == len(dense.sublayers)
    torch.testing.assert_close(read.directions[0], bridge.decoders[1].weight[:, 3])
