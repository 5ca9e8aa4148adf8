"""Interchange: a share of the circuit's nodes carries the whole model's activations instead of its own.

If the circuit computes what the whole model computes, its nodes hold the same values and nothing happens. Where nodes have
changed role, mixing the two breaks the task. 0 is the circuit, 1 has every kept node at the whole model's value.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foundation.statistics import Estimate
from sparse_model.circuits.evidence.check import Check
from sparse_model.circuits.evidence.finding import Finding
from sparse_model.circuits.evidence.outcome import Subject
from sparse_model.transformer.taps import Recorder

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Interchange(Finding):
    """Losses in nats (chance 0.693) by share of nodes exchanged."""

    curve: dict[float, Estimate]
    worst: Estimate
    """the point of the curve whose interval reaches highest"""
    distance: float
    """between the circuit's activations and the whole model's: 1 − R², pooled over kept nodes and prefixes"""

    @property
    def sentence(self) -> str:
        """What the figures mean."""
        points = ", ".join(f"{share:.0%}: {loss.value:.3f}" for share, loss in self.curve.items())
        return (
            f"With a share of its nodes at the whole model's activations the circuit's loss is {points}; the unexplained "
            f"share of those activations' variance is {self.distance:.2f}."
        )


def interchange(subject: Subject, draws: int = 8) -> Interchange:
    """Measure it on the subject's pairs; `draws` random choices of nodes per share."""
    keep, generator = subject.circuit.keep, subject.generator()
    model_has = whole_activations(subject)
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def compare(location: str, channels: Tensor, rows: Tensor, x: Tensor) -> Tensor:
        seen[location] = x, model_has[location][rows][:, torch.searchsorted(nodes[location], channels)]
        return x

    nodes = {name: mask.nonzero().flatten() for name, mask in keep.items()}
    subject.running(tap=compare)
    curve: dict[float, Estimate] = {}
    for share in FRACTIONS:
        losses = []
        for _ in range(draws if 0 < share < 1 else 1):
            chosen = {
                name: (torch.rand(len(mask), generator=generator) < share).to(mask.device)
                for name, mask in keep.items()
            }

            def swap(
                location: str, channels: Tensor, rows: Tensor, x: Tensor, chosen: dict[str, Tensor] = chosen
            ) -> Tensor:
                theirs = model_has[location][rows][:, torch.searchsorted(nodes[location], channels)]
                return torch.where(chosen[location][channels], theirs, x)

            losses.append(subject.running(tap=swap).losses())
        curve[share] = subject.by_itself.estimate(np.mean(losses, axis=0))
    unexplained = sum(float((own - theirs).double().square().sum()) for own, theirs in seen.values())
    total = sum(float((theirs - theirs.mean(0)).double().square().sum()) for _, theirs in seen.values())
    return Interchange(curve, max(curve.values(), key=lambda loss: loss.high), unexplained / total if total else 0.0)


@torch.no_grad()
def whole_activations(subject: Subject) -> dict[str, Float[Tensor, "tokens C"]]:
    """The whole model's activations of the kept nodes at every token of all prompts."""
    recorder = Recorder(subject.circuit.keep)
    subject.model(subject.prompts.tokens, tap=recorder)
    return {
        name: recorder.activations[name].flatten(0, 1)[:, mask.nonzero().flatten()]
        for name, mask in subject.circuit.keep.items()
    }


CHECK = Check(40, lambda asked: interchange(asked.subject))
