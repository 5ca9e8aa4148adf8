"""Sufficiency: the circuit alone, beside the whole model and random circuits of the same size per location."""

from dataclasses import dataclass

import numpy as np

from foundation.statistics import Estimate, mean_estimate
from sparse_model.circuits.circuit import random_circuit
from sparse_model.circuits.evidence.check import Check
from sparse_model.circuits.evidence.finding import Finding
from sparse_model.circuits.evidence.outcome import Subject


@dataclass(frozen=True)
class Sufficiency(Finding):
    """Losses in nats (chance 0.693), accuracies as fractions (chance 0.5)."""

    task_loss: Estimate
    """of the circuit alone, its logits as they are"""
    calibrated_loss: Estimate
    """of the circuit alone under its calibration: what pruning decided on"""
    worst_template: str
    """the held-out template it is worst on, calibrated"""
    worst_template_loss: float
    scale: float
    """the calibration: the difference of the two logits is scaled and shifted"""
    shift: float
    circuit_accuracy: Estimate
    full_loss: Estimate
    """of the whole model"""
    accuracy: Estimate
    random_circuit_loss: Estimate
    """of random circuits outside it, mean over draws"""

    @property
    def sentence(self) -> str:
        """What the figures mean."""
        return (
            f"Alone, the circuit answers {self.circuit_accuracy.value:.0%} of held-out prompts rightly at a loss of "
            f"{self.calibrated_loss} under its calibration (scale {self.scale:.3g}, shift {self.shift:.3g}; "
            f"{self.worst_template_loss:.3f} on the worst template, {self.worst_template}) and {self.task_loss} without; the "
            f"whole model {self.accuracy.value:.0%} at {self.full_loss.value:.3f}, random circuits of its size have "
            f"{self.random_circuit_loss.value:.3f}."
        )


def sufficiency(subject: Subject, draws: int = 100) -> Sufficiency:
    """Measure it on the subject's pairs; `draws` random circuits."""
    circuit, generator = subject.circuit, subject.generator()
    random = [subject.only(random_circuit(circuit, generator, outside=True)).loss for _ in range(draws)]
    worst_template, worst_template_loss = subject.by_itself.worst_template()
    return Sufficiency(
        task_loss=subject.uncalibrated.loss_estimate(),
        worst_template=worst_template,
        worst_template_loss=worst_template_loss,
        calibrated_loss=subject.by_itself.loss_estimate(),
        scale=circuit.calibration.scale,
        shift=circuit.calibration.shift,
        circuit_accuracy=subject.by_itself.accuracy_estimate(),
        full_loss=subject.whole.loss_estimate(),
        accuracy=subject.whole.accuracy_estimate(),
        random_circuit_loss=mean_estimate(np.array(random)),
    )


CHECK = Check(10, lambda asked: sufficiency(asked.subject, asked.draws))
