"""Elimination stays at the target, removes only kept nodes, and ranks them by the derivative of the deciding loss."""

import pytest
import torch

from sparse_model.circuits.ablation import Ablate, final_logits
from sparse_model.circuits.calibration import Calibration
from sparse_model.circuits.deciding_loss import SOME, Deciding
from sparse_model.circuits.edges import count_edges, drop_unread
from sparse_model.circuits.eliminate import TRIES, by_harm, descend, eliminate, node_harm
from sparse_model.circuits.prune_config import Elimination
from sparse_model.tasks.loss import logit_difference
from tests.sparse_model.circuits.conftest import own_pairs, random_keep


@pytest.fixture
def deciding(known) -> Deciding:
    return Deciding(known.model, (known.train, known.validation), known.values)


def number(keep) -> int:
    return sum(int(mask.sum()) for mask in keep.values())


def test_it_removes_kept_nodes_and_a_query_with_its_key_while_the_target_is_kept(known, deciding) -> None:
    keep = random_keep(known.model, 0.9)
    target = deciding.loss(keep) + 0.1
    fewer = eliminate(keep, deciding, target, Elimination(rounds=3))
    assert number(fewer) < number(keep)
    assert deciding.loss(fewer) <= target
    assert not any(bool((mask & ~keep[name]).any()) for name, mask in fewer.items())
    assert all(torch.equal(fewer[f"{layer}.attn.q"], fewer[f"{layer}.attn.k"]) for layer in (0, 1))


def test_it_goes_on_until_nothing_more_can_go(known) -> None:
    deciding = Deciding(known.model, (known.train,), known.values)
    nothing, whole = (
        {name: torch.full((len(value),), kept) for name, value in known.values.items()} for kept in (False, True)
    )
    target = 0.1 * deciding.loss(whole) + 0.9 * deciding.loss(nothing)
    fewer = eliminate(whole, deciding, target, Elimination(rounds=100))
    assert deciding.loss(fewer) <= target
    assert 0 < number(fewer) < number(whole)
    for group in by_harm(fewer, deciding, tied=True):
        again = {name: mask.clone() for name, mask in fewer.items()}
        for name, channel in group:
            again[name][channel] = False
        assert deciding.loss(again) > target


def test_where_no_node_is_needed_it_ends_as_soon_as_none_is_left(known, monkeypatch: pytest.MonkeyPatch) -> None:
    deciding = Deciding(known.model, (known.train,), known.values)
    ranked: list[int] = []
    monkeypatch.setattr("sparse_model.circuits.eliminate.by_harm", lambda *given: ranked.append(1) or by_harm(*given))
    assert number(eliminate(random_keep(known.model, 0.2), deciding, 9.0, Elimination(rounds=1000))) == 0
    assert len(ranked) < 60


def test_a_set_that_misses_the_target_and_no_rounds_leave_everything(known, deciding) -> None:
    keep = random_keep(known.model, 0.5)
    loss = deciding.loss(keep)
    for target, rounds in ((0.5 * loss, 10), (2 * loss, 0)):
        found = eliminate(keep, deciding, target, Elimination(rounds))
        assert all(torch.equal(mask, keep[name]) for name, mask in found.items())


@pytest.mark.parametrize("number_of_threads", [1, 2])
def test_of_several_starts_the_one_with_the_fewest_edges_goes_on(number_of_threads: int, known) -> None:
    deciding = Deciding(known.model, (known.train,), known.values)
    keep = random_keep(known.model, 0.5)
    target, how = deciding.loss(keep) + 0.005, Elimination(rounds=2, starts=3, seed=5)
    generators = [None, *(torch.Generator().manual_seed(how.seed + start) for start in (1, 2))]
    ends = [descend(keep, deciding, target, how, generator, TRIES) for generator in generators]
    edges = [count_edges(known.model, drop_unread(known.model, end)) for end in ends]
    assert len(set(edges)) > 1
    expected = descend(ends[edges.index(min(edges))], deciding, target, how)
    threads = torch.get_num_threads()
    torch.set_num_threads(number_of_threads)
    try:
        found = eliminate(keep, deciding, target, how)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(mask, expected[name]) for name, mask in found.items())


def test_large_sets_get_fewer_starts(known, monkeypatch: pytest.MonkeyPatch) -> None:
    deciding = Deciding(known.model, (known.train,), known.values)
    keep, begun = random_keep(known.model, 0.2), []
    monkeypatch.setattr("sparse_model.circuits.eliminate.descend", lambda found, *_: begun.append(1) or found)
    for times, starts in ((8.5, 8), (3.5, 3), (0.5, 1)):
        monkeypatch.setattr("sparse_model.circuits.eliminate.MOST", int(times * number(keep)))
        begun.clear()
        eliminate(keep, deciding, 9.0, Elimination(rounds=5, starts=8))
        assert len(begun) == starts + 1  # and the best to its end


def test_the_seed_of_the_random_factors_decides_where_further_starts_end(known, deciding) -> None:
    keep = random_keep(known.model, 0.9)
    by_harm_alone, *perturbed = (
        by_harm(keep, deciding, True, generator)
        for generator in (None, *(torch.Generator().manual_seed(seed) for seed in (1, 1, 2)))
    )
    assert perturbed[0] == perturbed[1]
    assert len({tuple(order) for order in (by_harm_alone, perturbed[0], perturbed[2])}) == 3
    assert all(set(order) == set(by_harm_alone) for order in perturbed)


def test_harm_of_large_sets_is_estimated_on_pairs_spread_over_them(known) -> None:
    many = own_pairs(known.model, 3, 3 * SOME + 1)
    spread = many.select(torch.arange(0, len(many), 4))
    keep = random_keep(known.model, 0.8)
    found = node_harm(keep, Deciding(known.model, (many,), known.values))
    expected = node_harm(keep, Deciding(known.model, (spread,), known.values))
    assert len(spread) <= SOME
    for name, harm in found.items():
        torch.testing.assert_close(harm, expected[name])


@pytest.mark.parametrize("calibrate", [True, False])
def test_harm_is_the_finite_difference_of_the_mean_deciding_loss(calibrate: bool, known) -> None:
    deciding = Deciding(known.model, (known.train, known.validation), known.values, calibrate)
    keep, name = random_keep(known.model, 0.8), "1.mlp.resid_delta"
    harm = node_harm(keep, deciding)[name]
    channel = int((harm.abs() * keep[name]).argmax())
    calibration = deciding.calibration(keep) if calibrate else Calibration()

    def loss(mask: float) -> float:
        """With the node's activation blended with its ablation value."""
        blend = {place: kept.float() for place, kept in keep.items()}
        blend[name][channel] = mask
        losses = []
        for pairs in (known.train, known.validation):
            batch = pairs.prompts()
            logits = final_logits(known.model, batch.tokens, batch.last, Ablate(blend, known.values))
            losses.append(float(calibration.loss(logit_difference(logits, batch.answer, batch.other))))
        return sum(losses) / 2

    slope = (loss(1 - 1e-2) - loss(1 + 1e-2)) / 2e-2
    assert slope == pytest.approx(float(harm[channel]), rel=0.05)
