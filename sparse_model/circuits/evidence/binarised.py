"""Binarised: every kept node replaced by a step, x ↦ low or high by whether x exceeds a threshold.

Threshold and the two values are those that leave the least squared error on the circuit's own activations on training
prompts, one node at a time (the split of a one-dimensional 2-means). A loss that stays low says that each node can be
read as one yes-or-no feature.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from foundation.statistics import Estimate
from sparse_model.circuits.evidence.check import Check
from sparse_model.circuits.evidence.finding import Finding
from sparse_model.circuits.evidence.outcome import Subject, outcome_of
from sparse_model.circuits.prompts import Prompts
from sparse_model.tasks.token_pairs import TokenPairs


@dataclass(frozen=True)
class Binarised(Finding):
    """Losses in nats (chance 0.693)."""

    binarised_loss: Estimate
    """of the circuit with every node two-valued"""
    mean_loss: Estimate
    """with every kept node frozen at its mean over the prompts: what no information gives"""
    task_loss: Estimate
    """of the circuit as it is"""

    @property
    def sentence(self) -> str:
        """What the figures mean."""
        return (
            f"With every node two-valued the loss is {self.binarised_loss}, with none of them varying "
            f"{self.mean_loss.value:.3f}, as it is {self.task_loss.value:.3f}."
        )


def binarised(subject: Subject, train: TokenPairs) -> Binarised:
    """Fit the steps on training pairs, measure on the subject's pairs."""
    circuit = subject.circuit
    steps: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}

    def fit(location: str, channels: Tensor, rows: Tensor, x: Tensor) -> Tensor:
        steps[location] = (*best_steps(x), x.mean(0))
        return x

    prompts = Prompts(circuit.within(subject.model), train)
    outcome_of(prompts, prompts.rows(), circuit.keep, circuit.values, fit)

    def step(location: str, channels: Tensor, rows: Tensor, x: Tensor) -> Tensor:
        threshold, low, high, _ = steps[location]
        return torch.where(x > threshold, high, low)

    def mean(location: str, channels: Tensor, rows: Tensor, x: Tensor) -> Tensor:
        return steps[location][3].expand_as(x)

    return Binarised(
        subject.running(tap=step).loss_estimate(),
        subject.running(tap=mean).loss_estimate(),
        subject.by_itself.loss_estimate(),
    )


def best_steps(x: Float[Tensor, "R C"]) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Per channel the threshold, low and high value of the step nearest to it in squared error."""
    count = len(x)
    if count < 2:
        return x[0], x[0], x[0]
    ordered = x.double().sort(0).values
    below = torch.arange(1, count, device=x.device, dtype=torch.float64)[:, None]
    total = ordered.cumsum(0)
    low, high = total[:-1] / below, (total[-1] - total[:-1]) / (count - below)
    between = below * (count - below) * (high - low).square()  # the variance a split explains
    best = between.argmax(0, keepdim=True)
    threshold = (ordered.gather(0, best) + ordered.gather(0, best + 1)) / 2
    return threshold[0].to(x), low.gather(0, best)[0].to(x), high.gather(0, best)[0].to(x)


CHECK = Check(50, lambda asked: binarised(asked.subject, asked.train))
