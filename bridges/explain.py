"""The main job for one task: prune a circuit, map it to edits of the dense model, validate them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from bridges.artefact import BridgeArtefact
from bridges.validation.isolation import ReferenceText
from bridges.validation.validate import Validation, validate_circuit
from dense_adapters import DenseStack
from sparse_model.circuits.circuit import Circuit
from sparse_model.circuits.config import PruneConfig
from sparse_model.circuits.evaluate import CircuitEvaluation, evaluate_circuit
from sparse_model.circuits.prune import prune
from sparse_model.tasks.loss import accuracy
from sparse_model.tasks.splits import task_splits
from sparse_model.tasks.task import Task
from sparse_model.tasks.token_pairs import TokenPairs


@dataclass(frozen=True)
class Explanation:
    """A circuit, how good it is in the sparse model, and whether it holds in the dense one."""

    circuit: Circuit
    evaluation: CircuitEvaluation
    dense_accuracy: float
    validation: Validation
    held_out: TokenPairs

    def to_json(self) -> dict[str, Any]:
        """The stable keys of `sparsebridge demo --json` under `tasks`; `details` holds the full report.

        Figures of both directions are summed up by the worse one (`p_value`, `standing_flip_rate`, `isolation_kl`,
        `random_recovered`) or their mean (`p_target`); each direction by itself is under `details`.
        """
        report = self.validation.report
        paired, standing = report["paired"], report["standing"]
        evaluation = self.evaluation

        def mean_p(key: str) -> float:
            return float(np.mean([found[key]["p_target"]["value"] for found in paired.values()]))

        return {
            "verdict": "passed" if self.validation.passed else "failed",
            "accuracy": evaluation.accuracy,
            "accuracy_dense": self.dense_accuracy,
            "nodes": evaluation.nodes,
            "edges": evaluation.edges,
            "task_loss": evaluation.task_loss,
            "task_loss_calibrated": evaluation.calibrated_loss,
            "task_loss_full_model": evaluation.full_loss,
            "necessity_loss": evaluation.necessity_loss,
            "necessity_random_loss": evaluation.necessity_random_loss,
            "necessity_any_loss": evaluation.necessity_any_loss,
            "recovered": {name: found["recovered"] for name, found in paired.items()},
            "random_recovered": max((found["random"]["recovered"] for found in paired.values()), key=abs),
            "p_target": {key: mean_p(key) for key in ("none", "edited", "random", "full_patch")},
            "p_value": max(found["p_value"] for found in paired.values()),
            "standing_flip_rate": min(found["flip_rate"]["value"] for found in standing.values()),
            "isolation_kl": max(found["isolation"]["kl"]["value"] for found in standing.values()),
            "details": {"circuit": evaluation.to_json(), **report},
        }


def explain(
    task: Task,
    artefact: BridgeArtefact,
    dense: DenseStack,
    values: Mapping[str, torch.Tensor],
    text: ReferenceText,
    config: PruneConfig,
    evaluate_pairs: int = 64,
    draws: int = 100,
    seed: int = 0,
) -> Explanation:
    """Explain how the dense model does one task.

    Args:
        values: the sparse model's ablation values.
        text: held-out reference text.
        evaluate_pairs: pairs of the validation and of the held-out split.

    Raises:
        UserError: the sparse model cannot do the task, or nothing maps.
    """
    splits = task_splits(task, artefact.tokenizer, config.pairs, evaluate_pairs, seed)
    found = prune(artefact.sparse, splits.train, splits.validation, values, config)
    circuit = replace(found, pairs={"seed": seed, **splits.sizes()})
    evaluation = evaluate_circuit(artefact.sparse, circuit, splits.held_out, seed=seed)
    validation = validate_circuit(circuit, artefact.bridge, artefact.sparse, dense, splits, text, draws, seed)
    return Explanation(circuit, evaluation, dense_accuracy(dense, splits.held_out), validation, splits.held_out)


@torch.no_grad()
def dense_accuracy(dense: DenseStack, pairs: TokenPairs) -> float:
    """Share of prompts the dense model answers rightly, of the two answers."""
    batch = pairs.prompts()
    logits = dense.model(batch.tokens).logits[torch.arange(len(batch.tokens)), batch.last]
    return float(accuracy(logits, batch.answer, batch.other))
