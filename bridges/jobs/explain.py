"""The main job for one task: prune a circuit, map it to edits of the dense model, validate them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from bridges.artefact import BridgeArtefact
from bridges.validation.isolation import ReferenceText
from bridges.validation.validate import Validation, validate_circuit
from dense_adapters import DenseStack
from sparse_model.circuits.circuit import Circuit
from sparse_model.circuits.evaluate import CircuitEvaluation, evaluate_circuit
from sparse_model.circuits.prune import prune
from sparse_model.circuits.prune_config import PruneConfig
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

        Effects are shares of the dense model's own difference at the circuit's place, null where it has no channel at one.
        Figures of the circuit's standing edits are those of the worse direction, null where there are none.
        """
        report, evaluation = self.validation.report, self.evaluation
        effect, m7 = report.get("effect", {}), report.get("specificity")
        standing = [kinds["circuit"] for kinds in report["standing"].values()]
        baselines = report.get("baselines", {})
        return {
            "verdict": self.validation.word,
            "reason": report["verdict"]["reason"],
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
            "effect": effect or None,
            "transfer": {name: report["transfer"][name] for name in ("slope", "r2", "rank")},
            "specificity": None if m7 is None else {name: m7[name] for name in ("difference", "p_value", "draws")},
            "baselines": {name: one["effect"] for name, one in baselines.items()} or None,
            "beats_baselines": report.get("beats_baselines"),
            "standing_flip_rate": min((one["flip_rate"]["value"] for one in standing), default=None),
            "isolation_kl": max((one["isolation"]["kl"]["value"] for one in standing), default=None),
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
