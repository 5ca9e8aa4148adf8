"""What is always reported with a circuit: sufficiency and necessity on held-out pairs, each beside its control.

Sufficiency: the circuit alone (everything else frozen) against the whole model and against random circuits of the
same size per location. Necessity: the whole model without the circuit against without as many nodes outside of it; sets
drawn from all nodes, which remove part of the circuit by chance, are beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sparse_model.circuits.ablation import Ablate, final_logits
from sparse_model.circuits.circuit import Circuit, random_circuit
from sparse_model.circuits.edges import count_edges
from sparse_model.circuits.prune import task_loss, trim
from sparse_model.model import SparseTransformer
from sparse_model.tasks.loss import accuracy
from sparse_model.tasks.token_pairs import TokenPairs


@dataclass(frozen=True)
class CircuitEvaluation:
    """Losses in nats (chance: 0.693), accuracies as fractions (chance: 0.5)."""

    nodes: int
    edges: int
    accuracy: float
    """of the whole model"""
    full_loss: float
    task_loss: float
    """of the circuit alone"""
    circuit_accuracy: float
    calibrated_loss: float
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


@torch.no_grad()
def evaluate_circuit(
    model: SparseTransformer, circuit: Circuit, pairs: TokenPairs, draws: int = 20, seed: int = 0
) -> CircuitEvaluation:
    """Evaluate on held-out pairs.

    Args:
        draws: random node sets per control.
    """
    generator = torch.Generator().manual_seed(seed)
    within = circuit.within(model)
    alone, removed, removed_any = [], [], []
    for _ in tqdm(range(draws), desc="random node sets", unit="draw", delay=2, leave=False):
        outside = random_circuit(circuit, generator, outside=True)
        alone.append(task_loss(model, pairs, Ablate(outside, circuit.values)))
        removed.append(task_loss(model, pairs, without(outside, circuit)))
        removed_any.append(task_loss(model, pairs, without(random_circuit(circuit, generator, outside=False), circuit)))
    return CircuitEvaluation(
        nodes=len(circuit.nodes),
        edges=count_edges(model, circuit.keep, circuit.edges),
        accuracy=_accuracy(model, pairs, None),
        full_loss=task_loss(model, pairs),
        task_loss=task_loss(within, pairs, circuit.only()),
        circuit_accuracy=_accuracy(within, pairs, circuit.only()),
        calibrated_loss=task_loss(within, pairs, circuit.only(), circuit.calibration),
        random_circuit_loss=float(np.mean(alone)),
        necessity_loss=task_loss(model, pairs, circuit.without()),
        necessity_random_loss=float(np.mean(removed)),
        necessity_random_losses=removed,
        necessity_any_loss=float(np.mean(removed_any)),
    )


def without(nodes: Mapping[str, Tensor], circuit: Circuit) -> Ablate:
    """The tap that removes a node set and keeps the rest."""
    return Ablate({name: ~mask for name, mask in nodes.items()}, circuit.values)


def _accuracy(model: SparseTransformer, pairs: TokenPairs, tap: Ablate | None) -> float:
    batch = trim(pairs).prompts()
    return float(accuracy(final_logits(model, batch.tokens, batch.last, tap), batch.answer, batch.other))
