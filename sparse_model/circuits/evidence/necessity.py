"""Necessity: the whole model without the circuit, against without random node sets of the same size per location.

Sets drawn outside the circuit ask whether these nodes matter more than others; sets drawn from all nodes, which remove
part of the circuit by chance, whether removing just these matters more than removing any as many.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor
from tqdm import tqdm

from foundation.statistics import Estimate, mean_estimate, permutation_p
from sparse_model.circuits.circuit import random_circuit
from sparse_model.circuits.evidence.check import Check
from sparse_model.circuits.evidence.finding import Finding
from sparse_model.circuits.evidence.outcome import Subject
from sparse_model.transformer.threads import side_by_side


@dataclass(frozen=True)
class Necessity(Finding):
    """Losses in nats (chance 0.693) of the whole model without a node set."""

    necessity_loss: Estimate
    """without the circuit"""
    outside_loss: Estimate
    """without sets drawn outside the circuit, mean over draws"""
    outside_losses: list[float]
    p_outside: float
    """share of those sets that hurt at least as much, counting the circuit itself"""
    any_loss: Estimate
    """without sets drawn from all nodes, mean over draws"""
    any_losses: list[float]
    p_any: float

    @property
    def sentence(self) -> str:
        """What the figures mean."""
        return (
            f"Without the circuit the model's loss is {self.necessity_loss}; without as many nodes outside it "
            f"{self.outside_loss.value:.3f} (p {self.p_outside:.3f}), without as many of all nodes {self.any_loss.value:.3f} "
            f"(p {self.p_any:.3f})."
        )


def necessity(subject: Subject, draws: int = 100) -> Necessity:
    """Measure it on the subject's pairs; `draws` random sets of either kind."""
    circuit, generator = subject.circuit, subject.generator()
    removed = subject.without(circuit.keep)
    sets = [random_circuit(circuit, generator, outside) for _ in range(draws) for outside in (True, False)]
    with tqdm(total=len(sets), desc="removing random node sets", unit="set", delay=2, leave=False) as bar:

        def without(nodes: Mapping[str, Tensor]) -> float:
            loss = subject.without(nodes).loss
            bar.update()
            return loss

        found = side_by_side([partial(without, nodes) for nodes in sets])
    losses = {True: found[::2], False: found[1::2]}
    return Necessity(
        necessity_loss=removed.loss_estimate(),
        outside_loss=mean_estimate(np.array(losses[True])),
        outside_losses=losses[True],
        p_outside=permutation_p(removed.loss, np.array(losses[True])),
        any_loss=mean_estimate(np.array(losses[False])),
        any_losses=losses[False],
        p_any=permutation_p(removed.loss, np.array(losses[False])),
    )


CHECK = Check(20, lambda asked: necessity(asked.subject, asked.draws))
