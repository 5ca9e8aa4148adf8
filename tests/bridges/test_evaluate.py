"""The evaluation of a bridge reports what its keys say."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bridges.evaluate import evaluate_bridge
from sparse_model.training.projection import project, sparse_tensors


def test_overall_figures_are_the_plain_ones(pair: Callable, blocks: np.ndarray) -> None:
    sparse, dense, bridge = pair()
    project(sparse_tensors(sparse), 0.3, 0)
    found = evaluate_bridge(sparse, dense, bridge, blocks[:20], batch_size=8).to_json()
    tokens = torch.from_numpy(blocks[:20].astype(np.int64))
    with torch.no_grad():
        dense_logits, sparse_logits = dense.model(tokens).logits, sparse(tokens).logits
    for name, logits in (("ce_dense", dense_logits), ("ce_sparse", sparse_logits)):
        expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item()
        assert found[name]["value"] == pytest.approx(expected, rel=1e-4)
        assert found[name]["low"] < expected < found[name]["high"]
    target = dense_logits.log_softmax(-1)
    kl = (target.exp() * (target - sparse_logits.log_softmax(-1))).sum(-1).mean().item()
    assert found["kl_dense_sparse"]["value"] == pytest.approx(kl, rel=1e-4)
    unigram = torch.bincount(tokens.flatten(), minlength=40) + 1.0
    yardstick = (target.exp() * (target - (unigram / unigram.sum()).log())).sum(-1).mean().item()
    assert found["kl_unigram"]["value"] == pytest.approx(yardstick, rel=1e-4)
    assert found["density"] == pytest.approx(0.3, abs=0.01)
    assert found["tokens"] == 240


def test_sites_are_reported_in_the_order_of_the_alignment(pair: Callable, blocks: np.ndarray) -> None:
    sparse, dense, bridge = pair(n_layer=1, dense_layers=3)
    sites = evaluate_bridge(sparse, dense, bridge, blocks[:8], batch_size=8).sites
    assert [(site["sparse_site"], site["dense_site"]) for site in sites] == [(0, 0), (2, 6)]
    last = sites[-1]
    tokens = torch.from_numpy(blocks[:8].astype(np.int64))
    with torch.no_grad():
        final = dense.model.transformer(tokens, output_hidden_states=True)
        walk = dense.walk(tokens)
        h = walk.embedding()
        for i in range(6):
            h = walk.sublayer(i, h)
        torch.testing.assert_close(dense.model.transformer.ln_f(h), final.last_hidden_state, atol=1e-5, rtol=1e-5)
        target = dense.model(tokens).logits.log_softmax(-1)
        logits = sparse.walk(tokens).unembed(bridge.encode(1, h)).log_softmax(-1)
    assert last["kl_dense_to_sparse"] == pytest.approx(
        (target.exp() * (target - logits)).sum(-1).mean().item(), rel=1e-4
    )


def test_a_bridge_that_predicts_the_mean_has_nmse_one(pair: Callable, blocks: np.ndarray) -> None:
    sparse, dense, bridge = pair()
    tokens = torch.from_numpy(blocks[:16].astype(np.int64))
    with torch.no_grad():
        mean = dense.walk(tokens).embedding().mean((0, 1))
        bridge.decoders[0].weight.zero_()
        bridge.decoders[0].bias.copy_(mean)
    first = evaluate_bridge(sparse, dense, bridge, blocks[:16]).sites[0]
    assert first["nmse_decoder"] == pytest.approx(1, rel=1e-4)


def test_the_random_paths_follow_from_the_seed(pair: Callable, blocks: np.ndarray) -> None:
    models = pair()

    def paths(seed: int) -> float:
        return evaluate_bridge(*models, blocks[:8], seed=seed).overall["kl_mixed_paths"]["value"]

    assert paths(0) == paths(0) != paths(1)
