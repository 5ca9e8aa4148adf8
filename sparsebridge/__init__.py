"""Explain a Hugging Face language model through a weight-sparse one, from Python.

    import sparsebridge as sb

    bridge = sb.bundled()                                # or sb.load_bridge("runs/bridge")
    circuit = sb.prune(bridge, "closing_quote")          # the few nodes of the sparse model that do the task
    verdict = sb.validate(circuit)                       # do they explain the dense model?
    with sb.edit(circuit).applied():                     # the circuit as a change of the dense model
        print(bridge.dense.generate("kind = 'item"))

Nothing heavy is imported until a name is used. Every object prints itself, and shows a table or a drawing in a notebook.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bridges.bridge_config import BridgeConfig as BridgeConfig
    from foundation.errors import UserError as UserError
    from sparse_model.circuits.prune_config import PruneConfig as PruneConfig
    from sparse_model.corpus.corpus_config import CorpusConfig as CorpusConfig
    from sparse_model.training.train_config import TrainConfig as TrainConfig
    from sparse_model.transformer.shape import SparseShape as SparseShape
    from sparsebridge.bridged import BridgedModel as BridgedModel
    from sparsebridge.bridged import build_corpus as build_corpus
    from sparsebridge.bridged import bundled as bundled
    from sparsebridge.bridged import load_bridge as load_bridge
    from sparsebridge.bridged import train_bridge as train_bridge
    from sparsebridge.circuits import CircuitEvidence as CircuitEvidence
    from sparsebridge.circuits import TaskCircuit as TaskCircuit
    from sparsebridge.circuits import evidence as evidence
    from sparsebridge.circuits import load_circuit as load_circuit
    from sparsebridge.circuits import prune as prune
    from sparsebridge.dense import DenseModel as DenseModel
    from sparsebridge.dense import attach as attach
    from sparsebridge.edits import CircuitEdit as CircuitEdit
    from sparsebridge.edits import edit as edit
    from sparsebridge.edits import load_edit as load_edit
    from sparsebridge.pairs import task as task
    from sparsebridge.pairs import tasks as tasks
    from sparsebridge.verdicts import TaskExplanation as TaskExplanation
    from sparsebridge.verdicts import Verdict as Verdict
    from sparsebridge.verdicts import explain as explain
    from sparsebridge.verdicts import report as report
    from sparsebridge.verdicts import validate as validate

HOMES = {
    "attach": "sparsebridge.dense",
    "bundled": "sparsebridge.bridged",
    "load_bridge": "sparsebridge.bridged",
    "train_bridge": "sparsebridge.bridged",
    "build_corpus": "sparsebridge.bridged",
    "tasks": "sparsebridge.pairs",
    "task": "sparsebridge.pairs",
    "prune": "sparsebridge.circuits",
    "load_circuit": "sparsebridge.circuits",
    "evidence": "sparsebridge.circuits",
    "edit": "sparsebridge.edits",
    "load_edit": "sparsebridge.edits",
    "validate": "sparsebridge.verdicts",
    "explain": "sparsebridge.verdicts",
    "report": "sparsebridge.verdicts",
    "DenseModel": "sparsebridge.dense",
    "BridgedModel": "sparsebridge.bridged",
    "TaskCircuit": "sparsebridge.circuits",
    "CircuitEvidence": "sparsebridge.circuits",
    "CircuitEdit": "sparsebridge.edits",
    "Verdict": "sparsebridge.verdicts",
    "TaskExplanation": "sparsebridge.verdicts",
    "PruneConfig": "sparse_model.circuits.prune_config",
    "TrainConfig": "sparse_model.training.train_config",
    "CorpusConfig": "sparse_model.corpus.corpus_config",
    "SparseShape": "sparse_model.transformer.shape",
    "BridgeConfig": "bridges.bridge_config",
    "UserError": "foundation.errors",
}
"""Public name → the module it is imported from when it is first used."""


def __getattr__(name: str) -> object:
    """Import the module behind a public name."""
    if name not in HOMES:
        raise AttributeError(f"module 'sparsebridge' has no attribute '{name}'; it has {', '.join(HOMES)}")
    found: object = getattr(importlib.import_module(HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The public names."""
    return list(HOMES)
