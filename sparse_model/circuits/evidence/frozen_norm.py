"""Frozen norms: the circuit with every RMS taken from the whole model on the same prompt.

With most nodes frozen the residual stream's size changes, and the norms amplify what little is written. A circuit
whose loss rises when the norms scale as they do in the whole model has used that.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from foundation.statistics import Estimate, statistic_estimate
from sparse_model.circuits.evidence.check import Check
from sparse_model.circuits.evidence.finding import Finding
from sparse_model.circuits.evidence.outcome import Subject
from sparse_model.transformer.taps import Tap, no_tap


@dataclass(frozen=True)
class FrozenNorm(Finding):
    """Losses in nats (chance 0.693)."""

    frozen_norm_loss: Estimate
    """of the circuit under the whole model's norm scales"""
    task_loss: Estimate
    """under its own"""
    amplification: Estimate
    """median over prompts of the circuit's final norm scale relative to the whole model's"""

    @property
    def sentence(self) -> str:
        """What the figures mean."""
        return (
            f"Under the whole model's norm scales the circuit's loss is {self.frozen_norm_loss}, under its own "
            f"{self.task_loss.value:.3f}; its final norm scales by {self.amplification} of the whole model's."
        )


def frozen_norm(subject: Subject) -> FrozenNorm | None:
    """Measure it on the subject's pairs; None where the model has LayerNorms, whose mean would have to be frozen too."""
    if subject.model.config.norm != "rms":
        return None
    scales = norm_scales(subject)
    seen = norm_scales(subject, alone=True)
    end = subject.prompts.ends
    return FrozenNorm(
        frozen_norm_loss=subject.running(scales=scales).loss_estimate(),
        task_loss=subject.by_itself.loss_estimate(),
        amplification=statistic_estimate(((seen[-1, end] / scales[-1, end]).cpu().numpy(),), np.median),
    )


@torch.no_grad()
def norm_scales(subject: Subject, alone: bool = False) -> Float[Tensor, "sites tokens"]:
    """1/RMS before every sublayer and the final norm, at every token of all prompts: of the whole model, or the circuit alone."""
    model = subject.circuit.within(subject.model) if alone else subject.model
    tap: Tap = subject.circuit.only() if alone else no_tap
    walk = model.walk(subject.prompts.tokens)
    h, found = walk.embedding(), []
    for i in range(len(model.sublayers) + 1):
        norm = model.norm(i)
        eps = torch.finfo(h.dtype).eps if norm.eps is None else norm.eps
        found.append((h.square().mean(-1) + eps).rsqrt().flatten())
        if i < len(model.sublayers):
            h = walk.sublayer(i, h, tap=tap)
    return torch.stack(found)


CHECK = Check(30, lambda asked: frozen_norm(asked.subject), "the model has LayerNorms")
