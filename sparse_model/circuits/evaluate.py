"""What is always reported with a circuit: sufficiency and necessity on held-out pairs, each beside its control.

The short form of `evidence`: the circuit alone against the whole model and random circuits; the whole model without the
circuit against without as many nodes outside of it, and without as many of all nodes.
"""

from dataclasses import dataclass
from typing import Any

from sparse_model.circuits.circuit import Circuit
from sparse_model.circuits.edges import count_edges
from sparse_model.circuits.evidence.necessity import Necessity, necessity
from sparse_model.circuits.evidence.outcome import Subject
from sparse_model.circuits.evidence.sufficiency import Sufficiency, sufficiency
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer


@dataclass(frozen=True)
class CircuitEvaluation:
    """Losses in nats (chance: 0.693), accuracies as fractions (chance: 0.5)."""

    nodes: int
    edges: int
    accuracy: float
    """of the whole model"""
    full_loss: float
    task_loss: float
    """of the circuit alone, its logits as they are"""
    circuit_accuracy: float
    calibrated_loss: float
    """of the circuit alone under its calibration"""
    random_circuit_loss: float
    """of random circuits of the same size per location, mean"""
    necessity_loss: float
    """of the whole model without the circuit"""
    necessity_random_loss: float
    """of the whole model without equal random node sets drawn outside the circuit, mean"""
    necessity_random_losses: list[float]
    necessity_any_loss: float
    """the same with sets drawn from all nodes, which hit some of the circuit's own by chance, mean"""

    def to_json(self) -> dict[str, Any]:
        """Field names as keys."""
        return dict(self.__dict__)


def evaluate_circuit(
    model: SparseTransformer, circuit: Circuit, pairs: TokenPairs, draws: int = 20, seed: int = 0
) -> CircuitEvaluation:
    """Evaluate on held-out pairs.

    Args:
        draws: random node sets per control.
    """
    subject = Subject(model, circuit, pairs, seed)
    return summary(subject, sufficiency(subject, draws), necessity(subject, draws))


def summary(subject: Subject, alone: Sufficiency, removed: Necessity) -> CircuitEvaluation:
    """The figures without their intervals."""
    return CircuitEvaluation(
        nodes=len(subject.circuit.nodes),
        edges=count_edges(subject.model, subject.circuit.keep, subject.circuit.edges),
        accuracy=alone.accuracy.value,
        full_loss=subject.whole.loss,
        task_loss=subject.uncalibrated.loss,
        circuit_accuracy=alone.circuit_accuracy.value,
        calibrated_loss=alone.calibrated_loss.value,
        random_circuit_loss=alone.random_circuit_loss.value,
        necessity_loss=removed.necessity_loss.value,
        necessity_random_loss=removed.outside_loss.value,
        necessity_random_losses=removed.outside_losses,
        necessity_any_loss=removed.any_loss.value,
    )
