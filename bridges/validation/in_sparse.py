"""Is the circuit sufficient and necessary where it was found? (METHOD §3, §6): the sparse model on held-out pairs.

Sufficient: alone, all else frozen, calibrated on other pairs, it answers. Necessary: without it the whole model answers much
worse than without as many other nodes per location.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from foundation.statistics import Estimate, clustered_estimate
from sparse_model.circuits.circuit import Circuit, random_circuit
from sparse_model.circuits.evidence.outcome import Subject
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer

REMOVALS = 10
"""Random node sets outside the circuit whose removal its own is compared to."""


@dataclass(frozen=True)
class InSparse:
    """Binary losses in nats (chance 0.693), with intervals over templates."""

    nodes: int
    accuracy: Estimate
    """of the whole model"""
    loss: Estimate
    """of the circuit alone, calibrated"""
    uncalibrated: Estimate
    removed: Estimate
    """of the whole model without the circuit"""
    removed_others: Estimate | None
    """… without as many nodes outside it, mean over draws; None where there are not as many"""
    necessity: Estimate | None
    """removed − removed_others, pair by pair"""

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            name: value.to_json() if isinstance(value, Estimate) else value for name, value in self.__dict__.items()
        }


def in_sparse(
    sparse: SparseTransformer, circuit: Circuit, pairs: TokenPairs, draws: int = REMOVALS, seed: int = 0
) -> InSparse:
    """Measure it on held-out pairs."""
    subject = Subject(sparse, circuit, pairs, seed)
    removed = subject.without(circuit.keep)
    others: list[np.ndarray] = []
    if all(int(mask.sum()) <= int((~mask).sum()) for mask in circuit.keep.values()):
        generator = subject.generator()
        others = [subject.without(random_circuit(circuit, generator, outside=True)).losses() for _ in range(draws)]
    mean_others = np.mean(others, axis=0) if others else None
    return InSparse(
        nodes=len(circuit.nodes),
        accuracy=subject.whole.accuracy_estimate(),
        loss=subject.by_itself.loss_estimate(),
        uncalibrated=subject.uncalibrated.loss_estimate(),
        removed=removed.loss_estimate(),
        removed_others=None if mean_others is None else clustered_estimate(mean_others, pairs.template),
        necessity=None if mean_others is None else clustered_estimate(removed.losses() - mean_others, pairs.template),
    )
