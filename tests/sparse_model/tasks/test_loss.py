"""Task losses against their definitions."""

import math

import pytest
import torch

from sparse_model.tasks.loss import accuracy, binary_loss, full_loss, last_logits, logit_difference

torch.manual_seed(0)
LOGITS = torch.randn(6, 11, dtype=torch.float64) * 3
ANSWER = torch.tensor([0, 1, 2, 3, 4, 5])
OTHER = torch.tensor([10, 9, 8, 7, 6, 4])


def test_binary_loss_is_the_cross_entropy_over_the_two_candidates() -> None:
    two = torch.stack([LOGITS.gather(1, ANSWER[:, None])[:, 0], LOGITS.gather(1, OTHER[:, None])[:, 0]], dim=1)
    expected = torch.nn.functional.cross_entropy(two, torch.zeros(6, dtype=torch.int64))
    assert binary_loss(LOGITS, ANSWER, OTHER).item() == pytest.approx(expected.item(), rel=1e-5)


def test_binary_loss_ignores_every_other_logit_and_full_loss_does_not() -> None:
    changed = LOGITS.clone()
    for row in range(6):
        for token in range(11):
            if token not in (ANSWER[row], OTHER[row]):
                changed[row, token] += 5
    assert torch.equal(binary_loss(changed, ANSWER, OTHER), binary_loss(LOGITS, ANSWER, OTHER))
    assert full_loss(changed, ANSWER) > full_loss(LOGITS, ANSWER)


def test_full_loss_is_the_mean_negative_log_probability_of_the_answer() -> None:
    expected = -LOGITS.log_softmax(1)[torch.arange(6), ANSWER].mean()
    assert full_loss(LOGITS, ANSWER).item() == pytest.approx(expected.item(), rel=1e-5)


def test_equal_logits_are_chance_and_never_counted_as_right() -> None:
    flat = torch.zeros(6, 11)
    assert binary_loss(flat, ANSWER, OTHER).item() == pytest.approx(math.log(2))
    assert accuracy(flat, ANSWER, OTHER) == 0


def test_accuracy_counts_the_prompts_with_a_positive_logit_difference() -> None:
    difference = logit_difference(LOGITS, ANSWER, OTHER)
    assert accuracy(LOGITS, ANSWER, OTHER).item() == pytest.approx((difference > 0).double().mean().item())
    assert accuracy(LOGITS, OTHER, ANSWER).item() == pytest.approx((difference < 0).double().mean().item())


def test_last_logits_pick_each_prompts_own_position() -> None:
    logits = torch.arange(2 * 3 * 4).reshape(2, 3, 4).float()
    assert torch.equal(last_logits(logits, torch.tensor([0, 2])), torch.stack([logits[0, 0], logits[1, 2]]))
