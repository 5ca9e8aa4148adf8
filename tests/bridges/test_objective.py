"""The bridged objective, term by term, against a naive one that runs every tail alone."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import bridges.objective
from bridges.alignment import align
from bridges.bridge import Bridge
from bridges.bridge_config import BridgeConfig
from bridges.objective import BridgedObjective, choose_crossings, run_tails
from bridges.protocol import residual_sites
from dense_adapters import DenseStack, load_dense
from sparse_model.training.batches import Batches
from sparse_model.training.loop import train
from sparse_model.training.schedule import learning_rate_factor
from sparse_model.training.train_config import TrainConfig

SHAPES: list[dict[str, Any]] = [
    {},
    {"n_layer": 1, "dense_layers": 3},
    {"bigram_table": "learned"},
    {"position": "concatenated", "d_position": 6},
    {"position": "added", "attention_sink": True},
]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def naive_terms(pair: Any, tokens: torch.Tensor, detach: bool = True) -> dict[str, torch.Tensor]:
    """M2, M3 and M4 as METHOD §4 writes them."""
    sparse, dense, bridge = pair
    y_sparse = sparse(tokens).logits
    y_dense = F.log_softmax(dense.model(tokens).logits.detach(), -1)

    def kl(logits: torch.Tensor) -> torch.Tensor:
        return (y_dense.exp() * (y_dense - logits.log_softmax(-1))).sum(-1).mean()

    def ratio(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        spread = (target - target.mean((0, 1))).pow(2).sum(-1).mean().detach()
        return (prediction - target).pow(2).sum(-1).mean() / spread

    h_sparse, h_dense = residual_sites(sparse, sparse.walk(tokens)), residual_sites(dense, dense.walk(tokens))
    terms = {
        "cross_entropy": F.cross_entropy(y_sparse[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()),
        "kl": kl(y_sparse),
    }
    terms |= {name: torch.zeros(()) for name in ("nmse", "dense_to_sparse", "sparse_to_dense")}
    for j, site in enumerate(bridge.alignment.sites):
        d, s = h_dense[site.dense].detach(), h_sparse[site.sparse]
        encoded, decoded = bridge.encode(j, d), bridge.decode(j, s)
        terms["nmse"] = terms["nmse"] + ratio(encoded, s.detach() if detach else s) + ratio(decoded, d)
        for name, stack, h, start in (
            ("dense_to_sparse", sparse, encoded, site.sparse),
            ("sparse_to_dense", dense, decoded, site.dense),
        ):
            walk = stack.walk(tokens)
            for i in range(start, len(stack.sublayers)):
                h = walk.sublayer(i, h)
            terms[name] = terms[name] + kl(walk.unembed(h))
    return terms


@each_shape
def test_every_term_is_the_one_of_the_naive_objective(
    shape: dict[str, Any], pair: Callable, tokens: torch.Tensor
) -> None:
    models = pair(**shape)
    config = BridgeConfig(cross_entropy=0.7, distillation=1.3, nmse=0.4, dense_to_sparse=0.9, sparse_to_dense=1.7)
    found = BridgedObjective(*models, config)(tokens, draw=0)
    expected = naive_terms(models, tokens)
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, atol=2e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
    weights = {"cross_entropy": 0.7, "kl": 1.3, "nmse": 0.4, "dense_to_sparse": 0.9, "sparse_to_dense": 1.7}
    assert found["loss"].item() == pytest.approx(
        sum(w * expected[name].item() for name, w in weights.items()), rel=1e-4
    )


@each_shape
@pytest.mark.parametrize("cross_entropy", [0.0, 1.0])
def test_gradients_are_those_of_the_naive_objective_with_detached_targets(
    shape: dict[str, Any], cross_entropy: float, pair: Callable, tokens: torch.Tensor
) -> None:
    models = pair(**shape)
    parameters = [*models.sparse.parameters(), *models.bridge.parameters()]

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))

    def naive_loss(detach: bool) -> torch.Tensor:
        terms = naive_terms(models, tokens, detach)
        return sum(cross_entropy * value if name == "cross_entropy" else value for name, value in terms.items())

    ours = gradients(BridgedObjective(*models, BridgeConfig(cross_entropy=cross_entropy))(tokens, draw=0)["loss"])
    naive, attached = (gradients(naive_loss(detach)) for detach in (True, False))
    for a, b in zip(ours, naive, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert max((a - b).abs().max() for a, b in zip(naive, attached, strict=True)) > 1e-2


def test_a_dense_model_as_loaded_is_neither_trained_nor_given_gradients(
    tiny_sparse: Callable, gpt2_folder: Path, tokens: torch.Tensor
) -> None:
    dense = DenseStack(load_dense(str(gpt2_folder))[0])
    sparse = tiny_sparse(vocab_size=dense.vocab_size)
    bridge = Bridge(align(sparse, dense), sparse.d_model, dense.d_model, 0.25)
    objective = BridgedObjective(sparse, dense, bridge, BridgeConfig())
    objective(tokens, draw=0)["loss"].backward()
    assert all(parameter.grad is None for parameter in dense.model.parameters())
    owned = {id(p) for p in objective.parameters()}
    assert owned == {id(p) for p in (*sparse.parameters(), *bridge.parameters())}
    grouped = [id(p) for group in objective.parameter_groups() for p in group.parameters]
    assert sorted(grouped) == sorted(owned)


def test_the_bridges_train_at_their_own_rate(pair: Callable) -> None:
    groups = BridgedObjective(*pair(), BridgeConfig(lr=0.5, eps=1e-3)).parameter_groups()
    assert [(group.name, group.lr, group.eps) for group in groups] == [("sparse", None, None), ("bridge", 0.5, 1e-3)]
    assert [group.sharkfin for group in groups] == [True, True]
    plain = BridgedObjective(*pair(), BridgeConfig(sharkfin=False)).parameter_groups()
    assert [group.sharkfin for group in plain] == [True, False]


@pytest.mark.parametrize("sharkfin", [True, False])
def test_the_loop_multiplies_the_bridges_rate_by_one_over_root_density_only_when_told_to(
    sharkfin: bool, pair: Callable, blocks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, float]] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *arguments: Any, **options: Any) -> Any:
        seen.append({group["group"]: group["lr"] for group in self.param_groups})
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    config = TrainConfig(steps=4, batch_size=2, density=0.25, anneal=0.5, lr=0.02, evaluate_every=0, log_to="none")
    objective = BridgedObjective(*pair(), BridgeConfig(lr=0.01, sharkfin=sharkfin))
    train(objective, Batches(blocks, 2, 0), config, tmp_path)
    for number, rates in enumerate(seen):
        assert rates["sparse"] == pytest.approx(0.02 * learning_rate_factor(config, number))
        assert rates["bridge"] == pytest.approx(0.01 * learning_rate_factor(config, number, sharkfin))
    assert len(seen) == 4


@pytest.mark.parametrize("count", [1, 2, 4])
def test_sampled_crossings_are_unbiased(
    count: int, pair: Callable, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Averaged over every subset of sites, the sampled terms are the full sums."""
    models = pair()
    sites = len(models.bridge.alignment.sites)
    full = BridgedObjective(*models, BridgeConfig())(tokens, draw=0)
    sampled = BridgedObjective(*models, BridgeConfig(crossings=count))
    subsets = list(combinations(range(sites), count))
    totals = {"dense_to_sparse": 0.0, "sparse_to_dense": 0.0, "loss": 0.0}
    for subset in subsets:
        monkeypatch.setattr(bridges.objective, "choose_crossings", lambda *_, chosen=subset: list(chosen))
        found = sampled(tokens, draw=0)
        totals = {name: total + found[name].item() / len(subsets) for name, total in totals.items()}
    for name, total in totals.items():
        assert total == pytest.approx(full[name].item(), rel=1e-4)


def test_crossings_are_distinct_repeatable_and_even_over_sites() -> None:
    counts = torch.zeros(5)
    for draw in range(2000):
        chosen = choose_crossings(5, 2, draw)
        assert chosen == sorted(set(chosen)) == choose_crossings(5, 2, draw)
        assert len(chosen) == 2
        counts[chosen] += 1
    assert (counts / 2000 - 0.4).abs().max() < 0.05
    assert choose_crossings(5, 0, 1) == choose_crossings(5, 9, 1) == [0, 1, 2, 3, 4]


@each_shape
def test_stacked_tails_are_the_tails_one_by_one(shape: dict[str, Any], pair: Callable, tokens: torch.Tensor) -> None:
    for stack in pair(**shape)[:2]:
        walk, last = stack.walk(tokens), len(stack.sublayers)
        entries = {i: torch.randn(3, 12, stack.d_model) for i in (0, 1, last)}
        alone = []
        for start, h in entries.items():
            for i in range(start, last):
                h = stack.walk(tokens).sublayer(i, h)
            alone.append(h)
        torch.testing.assert_close(run_tails(stack, walk, entries), torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_a_direction_without_weight_is_not_computed(pair: Callable, tokens: torch.Tensor) -> None:
    config = BridgeConfig(dense_to_sparse=0, sparse_to_dense=0)
    assert not {"dense_to_sparse", "sparse_to_dense"} & set(BridgedObjective(*pair(), config)(tokens, draw=0))
