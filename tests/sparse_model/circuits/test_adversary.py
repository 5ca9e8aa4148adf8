"""The adversary removes only nodes outside the circuit, and finds worse subsets than complete and random removal."""

import itertools

import pytest
import torch

from sparse_model.circuits.ablation import Ablate
from sparse_model.circuits.adversary import adversarial_loss, worst_subset
from sparse_model.circuits.prompts import Prompts
from sparse_model.circuits.prune import task_loss
from tests.sparse_model.circuits.conftest import random_keep


@pytest.fixture(scope="module")
def found(known):
    return adversarial_loss(known.model, random_keep(known.model, 0.6), known.values, known.train, batch_pairs=4)


def test_kept_nodes_are_never_removed(known, found) -> None:
    keep = random_keep(known.model, 0.6)
    assert len(found.ablated) == 2
    for subset in found.ablated:
        assert any(bool(mask.any()) for mask in subset.values())
        assert not any(bool((mask & keep[name]).any()) for name, mask in subset.items())


def test_the_worst_subset_is_worse_than_complete_and_random_removal_in_every_batch(found) -> None:
    for worst, complete, random in zip(*(found.batches[k] for k in ("adversarial", "complete", "random")), strict=True):
        assert worst > complete
        assert worst > random


def test_with_nothing_outside_the_circuit_every_loss_is_the_whole_models(known) -> None:
    everything = {name: torch.ones_like(value, dtype=torch.bool) for name, value in known.values.items()}
    found = adversarial_loss(known.model, everything, known.values, known.train, steps=2, draws=2)
    expected = pytest.approx(task_loss(known.model, known.train), rel=1e-4)
    assert [found.adversarial, found.complete, found.random, found.whole] == [expected] * 4


def test_among_few_nodes_the_adversary_is_in_the_worst_quarter_of_all_subsets(known) -> None:
    generator = torch.Generator().manual_seed(2)
    keep = {name: torch.ones_like(value, dtype=torch.bool) for name, value in known.values.items()}
    removable = [
        ("0.mlp.resid_delta", 1),
        ("1.attn.v", 4),
        ("1.mlp.post_act", 7),
        ("0.attn.act_in", 2),
        ("1.attn.q", 0),
    ]
    for name, channel in removable:
        keep[name][channel] = False

    def loss(subset) -> float:
        left = {name: torch.ones_like(mask) for name, mask in keep.items()}
        for name, channel in subset:
            left[name][channel] = False
        return task_loss(known.model, known.train, Ablate(left, known.values))

    tried = [loss(s) for n in range(len(removable) + 1) for s in itertools.combinations(removable, n)]
    prompts, masks = Prompts(known.model, known.train), {name: mask[None].float() for name, mask in keep.items()}
    _, worst = worst_subset(prompts, prompts.rows(), masks, known.values, 8, 0.25, 3, generator)
    assert sorted(tried)[3 * len(tried) // 4] < worst <= max(tried) + 1e-6
