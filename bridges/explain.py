"""The main job for one task: prune a circuit, map it to edits of the dense model, validate them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from bridges.artefact import BridgeArtefact
from bridges.validation.isolation import ReferenceText
from bridges.validation.validate import Splits, Validation, validate_circuit
from dense_adapters import DenseStack
from sparse_model.circuits.circuit import Circuit
from sparse_model.circuits.evaluate import CircuitEvaluation, evaluate_circuit
from sparse_model.circuits.prune import PruneConfig, prune
from sparse_model.tasks.loss import accuracy
from sparse_model.tasks.task import Task
from sparse_model.tasks.token_pairs import TokenPairs, tokenise_pairs


@dataclass(frozen=True)
class Explanation:
    """A circuit, how good it is in the sparse model, and whether it holds in the dense one."""

    circuit: Circuit
    evaluation: CircuitEvaluation
    dense_accuracy: float
    validation: Validation

    def to_json(self) -> dict[str, Any]:
        """The stable keys of `sparsebridge demo --json` under `tasks`, and everything else under `details`."""
        report = self.validation.report
        paired, standing = report["paired"], report["standing"]
        return {
            "verdict": "passed" if self.validation.passed else "failed",
            "accuracy": {"dense": self.dense_accuracy, "sparse": self.evaluation.accuracy},
            "nodes": self.evaluation.nodes,
            "edges": self.evaluation.edges,
            "task_loss": self.evaluation.task_loss,
            "task_loss_calibrated": self.evaluation.calibrated_loss,
            "task_loss_full_model": self.evaluation.full_loss,
            "necessity_loss": self.evaluation.necessity_loss,
            "necessity_random_loss": self.evaluation.necessity_random_loss,
            "recovered": {name: found["recovered"] for name, found in paired.items()},
            "p_target": {
                name: {
                    "none": found["none"]["p_target"],
                    "edited": found["edited"]["p_target"],
                    "random": found["random"]["p_target"],
                    "full_patch": found["full_patch"]["p_target"],
                }
                for name, found in paired.items()
            },
            "random_recovered": {name: found["random"]["recovered"] for name, found in paired.items()},
            "p_value": {name: found["p_value"] for name, found in paired.items()},
            "standing_flip_rate": {name: found["flip_rate"] for name, found in standing.items()},
            "isolation_kl": {name: found["isolation"]["kl"] for name, found in standing.items()},
            "details": {"circuit": self.evaluation.to_json(), **report},
        }


def task_splits(
    task: Task, tokenizer: PreTrainedTokenizerBase, train: int, evaluate: int, seed: int = 0, device: str = "cpu"
) -> Splits:
    """Pairs to fit on (training templates), to choose on and to report on (templates of their own).

    Raises:
        TaskError: the tokenizer cannot express enough pairs.
    """
    return Splits(
        tokenise_pairs(task, tokenizer, train, "train", seed).to(device),
        tokenise_pairs(task, tokenizer, evaluate, "validation", seed).to(device),
        tokenise_pairs(task, tokenizer, evaluate, "held_out", seed).to(device),
    )


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
    circuit = prune(artefact.sparse, splits.train, splits.validation, values, config)
    evaluation = evaluate_circuit(artefact.sparse, circuit, splits.held_out, seed=seed)
    validation = validate_circuit(circuit, artefact.bridge, artefact.sparse, dense, splits, text, draws, seed)
    return Explanation(circuit, evaluation, dense_accuracy(dense, splits.held_out), validation)


@torch.no_grad()
def dense_accuracy(dense: DenseStack, pairs: TokenPairs) -> float:
    """Share of prompts the dense model answers rightly, of the two answers."""
    batch = pairs.prompts()
    logits = dense.model(batch.tokens).logits[torch.arange(len(batch.tokens)), batch.last]
    return float(accuracy(logits, batch.answer, batch.other))


