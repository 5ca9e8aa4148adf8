"""Discretising: the fewest top-ranked nodes and edges that reach a target on every deciding set."""

import copy

import pytest
import torch

from sparse_model.circuits.ablation import Ablate
from sparse_model.circuits.deciding_loss import Deciding, discretise, discretise_edges, fewest
from sparse_model.circuits.edges import cut_edges, edges_between
from sparse_model.circuits.learn_edges import learn_edges
from sparse_model.circuits.prompts import Prompts
from sparse_model.circuits.prune import task_loss, worst_loss
from sparse_model.circuits.prune_config import PruneConfig
from tests.sparse_model.circuits.conftest import random_keep


@pytest.fixture
def deciding(known) -> Deciding:
    return Deciding(known.model, (known.train, known.validation), known.values)


def scores_of(known) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {name: torch.randn(len(value), generator=generator) for name, value in known.values.items()}


def test_the_deciding_loss_is_the_worst_sets_loss_of_the_frozen_model(known) -> None:
    deciding = Deciding(known.model, (known.train, known.validation), known.values, calibrate=False)
    keep = random_keep(known.model, 0.7)
    expected = worst_loss(known.model, (known.train, known.validation), Ablate(keep, known.values))
    assert deciding.loss(keep) == pytest.approx(expected, rel=1e-4)
    assert deciding.reaches(expected + 1e-3, keep)
    assert not deciding.reaches(expected - 1e-3, keep)


def test_a_decision_calibrates_on_the_first_set_and_takes_the_worst_of_all(known, deciding: Deciding) -> None:
    keep = random_keep(known.model, 0.7)
    tap, found = Ablate(keep, known.values), deciding.calibration(keep)
    losses = [task_loss(known.model, pairs, tap, found) for pairs in (known.train, known.validation)]
    assert deciding.loss(keep) == pytest.approx(max(losses), rel=1e-4)
    swapped = Deciding(known.model, (known.validation, known.train), known.values)
    assert swapped.calibration(keep) != found


def test_the_size_of_the_logits_matters_to_uncalibrated_decisions_alone(known, deciding: Deciding) -> None:
    keep, quiet = random_keep(known.model, 0.9), copy.deepcopy(known.model)
    with torch.no_grad():
        quiet.lm_head.weight *= 0.1
        quiet.final_logits_bias *= 0.1
    sets = (known.train, known.validation)
    assert Deciding(quiet, sets, known.values).loss(keep) == pytest.approx(deciding.loss(keep), rel=1e-4)
    as_they_are = [Deciding(model, sets, known.values, calibrate=False).loss(keep) for model in (known.model, quiet)]
    assert as_they_are[1] > as_they_are[0] + 0.1


def test_without_shrinking_nothing_with_a_positive_score_goes(known, deciding: Deciding) -> None:
    scores = scores_of(known)
    keep = discretise(scores, deciding, 1e3, shrink=False)
    assert all(torch.equal(mask, scores[name] > 0) for name, mask in keep.items())


@pytest.mark.parametrize("smallest", [1, 2, 7, 40, 63, 64])
@pytest.mark.parametrize("start", [0, 1, 30, 64])
def test_bisection_finds_the_smallest_number_that_reaches(smallest: int, start: int) -> None:
    assert fewest(64, start, lambda k: k >= smallest) == smallest


def test_discretising_reaches_the_target_with_the_top_ranked_nodes(known, deciding: Deciding) -> None:
    scores, target = scores_of(known), 0.4
    keep = discretise(scores, deciding, target)
    assert deciding.loss(keep) <= target
    lowest = min(scores[name][mask].min() for name, mask in keep.items() if mask.any())
    assert lowest > max(scores[name][~mask].max() for name, mask in keep.items() if (~mask).any())
    assert deciding.loss({name: mask & (scores[name] > lowest) for name, mask in keep.items()}) > target


def test_one_node_is_enough_where_chance_is(known, deciding: Deciding) -> None:
    assert sum(int(mask.sum()) for mask in discretise(scores_of(known), deciding, 1e3).values()) == 1


def test_learned_edges_lie_between_kept_nodes_and_the_fewest_reach_the_target(known, deciding: Deciding) -> None:
    keep = random_keep(known.model, 0.9)
    target = deciding.loss(keep) + 0.2
    config = PruneConfig(edge_steps=10, batch_pairs=8, edge_coef=5e-3, lr=0.05)
    scores = learn_edges(Prompts(known.model, known.train), keep, known.values, config)
    between = edges_between(known.model, keep)
    assert all(torch.equal(score > float("-inf"), between[name]) for name, score in scores.items())
    edges = discretise_edges(scores, keep, deciding, target)
    cut = cut_edges(known.model, edges, known.values)
    tap, calibration = Ablate(keep, known.values), deciding.calibration(keep, edges)
    assert max(task_loss(cut, p, tap, calibration) for p in (known.train, known.validation)) <= target + 1e-4
    removed = {name: ~mask for name, mask in edges.items()}
    assert sum(int(mask.sum()) for mask in removed.values()) > 0
    assert not any(bool((mask & ~between[name]).any()) for name, mask in removed.items())


def test_a_search_upwards_finds_a_size_near_its_start_though_larger_ones_fail() -> None:
    assert fewest(64, 18, lambda k: 20 <= k <= 25 or k >= 60) == 20
    assert fewest(64, 26, lambda k: 20 <= k <= 25 or k >= 60) == 60
