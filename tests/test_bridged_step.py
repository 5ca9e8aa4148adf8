"""The benchmark of the bridged step compares like with like: both ways have the same loss and the same gradients."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import bridged_step


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"S": 32, "D": 16, "V": 50, "B": 2, "T": 12}.items():
        monkeypatch.setattr(bridged_step, name, value)


def test_both_ways_have_the_same_loss_and_gradients() -> None:
    step, plain = bridged_step.Step(1), bridged_step.StraightforwardStep(1)
    ours = step.objective(step.tokens, draw=0)["loss"]
    theirs = plain.loss()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    ours.backward()
    theirs.backward()
    for a, b in zip(step.parameters, plain.parameters, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)


def test_every_product_is_recorded_and_made_again() -> None:
    recording, again = bridged_step.Recording(), bridged_step.Recording()
    with recording:
        bridged_step.Step(1)()
    assert recording.products.total() > 20
    with again:
        bridged_step.replay(recording.products)()
    assert again.products == recording.products


def test_shares_of_a_step_add_up_and_products_are_among_them() -> None:
    found = bridged_step.shares(1)
    assert sum(found.values()) == pytest.approx(1, abs=0.01)
    assert found["products"] > 0
    assert found["abs_topk"] > 0
