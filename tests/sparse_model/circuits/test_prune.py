"""Pruning end to end on a task the model does by construction, and each step by itself."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from foundation.errors import UserError
from sparse_model.circuits.evaluate import evaluate_circuit
from sparse_model.circuits.prune import (
    prune,
    task_loss,
    trim,
    worst_loss,
)
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.tasks.token_pairs import TokenPairs

QUICK = {
    "steps": 12, "batch_pairs": 8, "k_coef": 1e-2, "edge_steps": 10, "edge_coef": 2e-2, "elimination_rounds": 1,
    "elimination_starts": 2,
}  # fmt: skip


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


def test_a_pruned_circuit_reaches_the_target_with_part_of_the_nodes(known) -> None:
    target = max(0.3, 2 * worst_loss(known.model, (known.train, known.validation)))
    config = PruneConfig(target_loss=target, seeds=2, **QUICK)
    deciding = (known.train, known.validation)
    circuit = prune(known.model, known.train, known.validation, known.values, config)
    within = circuit.within(known.model)
    assert max(task_loss(within, p, circuit.only(), circuit.calibration) for p in deciding) <= target + 1e-5
    assert 0 < circuit.metrics["nodes"] == len(circuit.nodes) < sum(map(len, known.values.values()))
    assert circuit.metrics["validation_loss"] == task_loss(within, known.validation, circuit.only())
    calibrated = task_loss(within, known.validation, circuit.only(), circuit.calibration)
    assert circuit.metrics["validation_calibrated_loss"] == calibrated
    assert circuit.metrics["edges"] < circuit.metrics["edges_between_nodes"]
    seeds = circuit.metrics["seeds"]
    assert [found["seed"] for found in seeds] == [0, 1]
    assert set(map(str, circuit.nodes)) <= set(min(seeds, key=lambda found: found["edges"])["nodes"])
    assert all(found["loss"] <= target for found in seeds)
    assert circuit.settings["target_loss"] == target
    circuit.check_model(known.model)

    found = evaluate_circuit(known.model, circuit, known.validation, draws=3)
    assert found.full_loss == pytest.approx(task_loss(known.model, known.validation), rel=1e-5)
    assert found.necessity_loss == pytest.approx(task_loss(known.model, known.validation, circuit.without()), abs=1e-5)
    assert len(found.necessity_random_losses) == 3
    assert found.nodes == len(circuit.nodes)
    assert found.task_loss < found.random_circuit_loss


def test_without_calibration_in_the_decision_the_logits_reach_the_target_as_they_are(known) -> None:
    deciding = (known.train, known.validation)
    target = max(0.3, 2 * worst_loss(known.model, deciding))
    config = PruneConfig(target_loss=target, calibrate_in_decision=False, **QUICK)
    circuit = prune(known.model, known.train, known.validation, known.values, config)
    assert worst_loss(circuit.within(known.model), deciding, circuit.only()) <= target + 1e-5


def test_the_stored_ranking_tells_nodes_apart_whose_masks_are_saturated(known) -> None:
    config = PruneConfig(target_loss=0.5, lr=0.5, **QUICK)
    scores = prune(known.model, known.train, known.validation, known.values, config).scores
    assert scores is not None
    saturated = torch.cat([score[score >= 1] for name, score in scores.items() if not name.endswith(".k")])
    assert len(saturated.unique()) == len(saturated) > 10


def test_a_task_the_whole_model_cannot_do_is_refused(known) -> None:
    def backwards(pairs: TokenPairs) -> TokenPairs:
        from dataclasses import replace

        return replace(pairs, answer_a=pairs.answer_b, answer_b=pairs.answer_a)

    with pytest.raises(UserError, match=r"above the target 0\.15"):
        prune(known.model, backwards(known.train), backwards(known.validation), known.values, PruneConfig(**QUICK))
    assert task_loss(known.model, backwards(known.train)) > math.log(2) > task_loss(known.model, known.train)


def test_prompts_longer_than_a_model_with_positions_reads_are_refused_with_the_task_and_both_lengths(
    known, tiny_sparse
) -> None:
    model = tiny_sparse(position="added")
    most = model.config.block_size
    long = replace(known.validation, last=known.validation.last * 0 + most)
    with pytest.raises(
        UserError, match=rf"^task 'own': a prompt has {most + 1} tokens and .* reads {most}; .*--block-length"
    ):
        prune(model, known.train, long, known.values, PruneConfig())


def test_unread_nodes_stay_where_the_circuit_would_miss_its_target_without_them(
    known, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through AbsTopK an unread node still decides which channels survive."""
    import sparse_model.circuits.prune as module

    target = max(0.3, 2 * worst_loss(known.model, (known.train, known.validation)))
    config = PruneConfig(target_loss=target, **QUICK)
    monkeypatch.setattr(
        module, "drop_unread", lambda model, keep, edges=None: {name: mask & False for name, mask in keep.items()}
    )
    circuit = prune(known.model, known.train, known.validation, known.values, config)
    within, deciding = circuit.within(known.model), (known.train, known.validation)
    assert max(task_loss(within, p, circuit.only(), circuit.calibration) for p in deciding) <= target + 1e-5
    assert circuit.nodes


def test_pruning_leaves_no_gradient_in_a_model_that_could_take_one(known) -> None:
    known.model.requires_grad_(True)
    try:
        prune(known.model, known.train, known.validation, known.values, PruneConfig(target_loss=5.0, **QUICK))
        assert all(parameter.grad is None for parameter in known.model.parameters())
    finally:
        known.model.requires_grad_(False)


def test_where_no_node_is_needed_none_is_kept_and_nothing_is_learned(known, monkeypatch: pytest.MonkeyPatch) -> None:
    import sparse_model.circuits.prune as module

    monkeypatch.setattr(module, "learn_masks", lambda *_: pytest.fail("masks were learned"))
    found = prune(known.model, known.train, known.validation, known.values, PruneConfig(target_loss=5.0, **QUICK))
    assert found.nodes == ()
    assert found.metrics["edges"] == 0
