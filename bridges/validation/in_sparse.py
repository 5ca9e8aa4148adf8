"""Is the circuit sufficient and necessary where it was found? (METHOD §3, §6): the sparse model on held-out pairs.

Sufficient: alone, all else frozen, calibrated on other pairs, it answers. Necessary: without it the whole model loses most of
the difference between its two answers, and much more of it than without as many other nodes per location.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foundation.statistics import Estimate, clustered_estimate, from_resamples, template_weights
from sparse_model.circuits.circuit import Circuit, random_circuit
from sparse_model.circuits.evidence.outcome import Outcome, Subject
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer

REMOVALS = 10
"""Random node sets outside the circuit whose removal its own is compared to."""


@dataclass(frozen=True)
class InSparse:
    """Binary losses in nats (chance 0.693) and shares of the logit difference, with intervals over templates."""

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
    share: Estimate
    """of the whole model's logit difference that goes with the circuit"""
    necessity: Estimate | None
    """share, less what goes with as many other nodes"""

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return {
            name: value.to_json() if isinstance(value, Estimate) else value for name, value in self.__dict__.items()
        }


def in_sparse(
    sparse: SparseTransformer, circuit: Circuit, pairs: TokenPairs, draws: int = REMOVALS, seed: int = 0
) -> InSparse:
    """Measure it on held-out pairs."""
    circuit = circuit.to(sparse.device)
    subject = Subject(sparse, circuit, pairs, seed)
    whole, removed = subject.whole, subject.without(circuit.keep)
    others: list[Outcome] = []
    if all(int(mask.sum()) <= int((~mask).sum()) for mask in circuit.keep.values()):
        generator = subject.generator()
        others = [subject.without(random_circuit(circuit, generator, outside=True)) for _ in range(draws)]
    own = _by_pair(whole)
    lost = own - _by_pair(removed)
    lost_with_others = None if not others else own - np.mean([_by_pair(one) for one in others], axis=0)
    return InSparse(
        nodes=len(circuit.nodes),
        accuracy=whole.accuracy_estimate(),
        loss=subject.by_itself.loss_estimate(),
        uncalibrated=subject.uncalibrated.loss_estimate(),
        removed=removed.loss_estimate(),
        removed_others=None
        if not others
        else clustered_estimate(np.mean([one.losses() for one in others], axis=0), pairs.template),
        share=_share(lost, own, pairs.template, seed),
        necessity=None if lost_with_others is None else _share(lost - lost_with_others, own, pairs.template, seed),
    )


def _by_pair(outcome: Outcome) -> NDArray[np.floating]:
    """Right minus wrong logit, both prompts of a pair averaged."""
    found: NDArray[np.floating] = outcome.difference.view(2, -1).mean(0).numpy()
    return found


def _share(part: NDArray[np.floating], whole: NDArray[np.floating], templates: Sequence[str], seed: int) -> Estimate:
    """Ratio of sums over pairs, whole templates resampled."""
    weights = template_weights(templates, seed=seed)
    return from_resamples(weights @ part / (weights @ whole))
