"""Pruning end to end on a task the model does by construction, and each step by itself."""

import math

import pytest
import torch
import torch.nn.functional as F

from sparse_model.circuits.ablation import Ablate
from sparse_model.circuits.evaluate import evaluate_circuit
from sparse_model.circuits.prune import (
    PruneConfig,
    calibrate,
    discretise,
    learn_masks,
    prune,
    task_loss,
    trim,
    worst_loss,
)
from sparse_model.settings import UserError
from sparse_model.tasks.token_pairs import TokenPairs

QUICK = {"steps": 12, "batch_pairs": 8, "k_coef": 1e-2}


def scores_of(known) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {name: torch.randn(len(value), generator=generator) for name, value in known.values.items()}


def random_keep_of(known, share: float = 0.5) -> dict[str, torch.Tensor]:
    return {name: score < share for name, score in scores_of(known).items()}


@torch.no_grad()
def test_task_loss_is_the_binary_cross_entropy_over_the_two_answers(known) -> None:
    pairs, model, losses = known.train, known.model, []
    for i in range(len(pairs)):
        for tokens, right, wrong in (
            (pairs.tokens_a, pairs.answer_a, pairs.answer_b),
            (pairs.tokens_b, pairs.answer_b, pairs.answer_a),
        ):
            logits = model(tokens[i : i + 1, : pairs.last[i] + 1]).logits[0, -1]
            both = torch.stack([logits[right[i]], logits[wrong[i]]])
            losses.append(F.cross_entropy(both[None], torch.tensor([0])).item())
    assert task_loss(model, pairs) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert task_loss(model, pairs.swapped()) == pytest.approx(task_loss(model, pairs), rel=1e-5)
    assert worst_loss(model, (pairs, known.validation)) == max(task_loss(model, p) for p in (pairs, known.validation))


def test_trimming_drops_only_columns_that_are_padding_for_all(known) -> None:
    short = trim(known.train.select([0, 1]))
    assert short.tokens_a.shape[1] == int(known.train.last[0]) + 1
    assert trim(known.train).tokens_a.shape == known.train.tokens_a.shape


def test_calibration_never_raises_the_loss_on_its_own_pairs_and_is_at_a_minimum(known) -> None:
    tap = Ablate(random_keep_of(known), known.values)
    found = calibrate(known.model, (known.train, known.validation), tap)

    def total(**changes: float) -> float:
        from dataclasses import replace

        return sum(task_loss(known.model, p, tap, replace(found, **changes)) for p in (known.train, known.validation))

    assert total() <= total(scale=1.0, shift=0.0) + 1e-9
    for step in (-0.02, 0.02):
        assert total(scale=found.scale + step) >= total() - 1e-6
        assert total(shift=found.shift + step) >= total() - 1e-6


def test_discretising_reaches_the_target_with_the_top_ranked_nodes(known) -> None:
    deciding, scores = (known.train, known.validation), scores_of(known)
    target = 0.4
    keep = discretise(known.model, scores, deciding, known.values, target)
    assert worst_loss(known.model, deciding, Ablate(keep, known.values)) <= target
    lowest = min(scores[name][mask].min() for name, mask in keep.items() if mask.any())
    highest_dropped = max(scores[name][~mask].max() for name, mask in keep.items() if (~mask).any())
    assert lowest > highest_dropped
    one_fewer = {name: mask & (scores[name] > lowest) for name, mask in keep.items()}
    assert worst_loss(known.model, deciding, Ablate(one_fewer, known.values)) > target


def test_a_higher_target_never_needs_the_whole_model_when_chance_is_enough(known) -> None:
    deciding = (known.train, known.validation)
    keep = discretise(known.model, scores_of(known), deciding, known.values, 1e3)
    assert sum(int(mask.sum()) for mask in keep.values()) == 1


def test_learning_the_masks_is_repeatable_and_a_price_on_nodes_removes_them(known) -> None:
    def kept(**changes) -> int:
        masks = learn_masks(known.model, known.train, known.values, PruneConfig(**{**QUICK, **changes}))
        return int(masks.kept(1.0))

    assert kept(steps=3) == kept(steps=3)
    hasty = {"steps": 8, "lr": 0.1, "ramp": 0.0}
    assert kept(k_coef=0.1, **hasty) < kept(k_coef=0.0, **hasty)


def test_a_pruned_circuit_reaches_the_target_with_part_of_the_nodes(known) -> None:
    target = max(0.3, 2 * worst_loss(known.model, (known.train, known.validation)))
    circuit = prune(known.model, known.train, known.validation, known.values, PruneConfig(target_loss=target, **QUICK))
    assert worst_loss(known.model, (known.train, known.validation), circuit.only()) <= target
    assert 0 < circuit.metrics["nodes"] == len(circuit.nodes) < sum(map(len, known.values.values()))
    assert circuit.metrics["validation_loss"] == task_loss(known.model, known.validation, circuit.only())
    assert circuit.settings["target_loss"] == target
    circuit.check_model(known.model)

    found = evaluate_circuit(known.model, circuit, known.validation, draws=3)
    assert found.full_loss == task_loss(known.model, known.validation)
    assert found.necessity_loss == task_loss(known.model, known.validation, circuit.without())
    assert len(found.necessity_random_losses) == 3
    assert found.nodes == len(circuit.nodes)
    assert found.task_loss < found.random_circuit_loss


def test_a_task_the_whole_model_cannot_do_is_refused(known) -> None:
    def backwards(pairs: TokenPairs) -> TokenPairs:
        from dataclasses import replace

        return replace(pairs, answer_a=pairs.answer_b, answer_b=pairs.answer_a)

    with pytest.raises(UserError, match=r"above the target 0\.15"):
        prune(known.model, backwards(known.train), backwards(known.validation), known.values, PruneConfig(**QUICK))
    assert task_loss(known.model, backwards(known.train)) > math.log(2) > task_loss(known.model, known.train)


def test_unread_nodes_stay_where_the_circuit_would_miss_its_target_without_them(
    known, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through AbsTopK an unread node still decides which channels survive."""
    import sparse_model.circuits.prune as module

    target = max(0.3, 2 * worst_loss(known.model, (known.train, known.validation)))
    config = PruneConfig(target_loss=target, **QUICK)
    monkeypatch.setattr(module, "drop_unread", lambda model, keep: {name: mask & False for name, mask in keep.items()})
    circuit = prune(known.model, known.train, known.validation, known.values, config)
    assert worst_loss(known.model, (known.train, known.validation), circuit.only()) <= target
    assert circuit.nodes


def test_pruning_leaves_no_gradient_in_a_model_that_could_take_one(known) -> None:
    known.model.requires_grad_(True)
    try:
        learn_masks(known.model, known.train, known.values, PruneConfig(**{**QUICK, "steps": 2}))
        assert all(parameter.grad is None for parameter in known.model.parameters())
    finally:
        known.model.requires_grad_(False)
